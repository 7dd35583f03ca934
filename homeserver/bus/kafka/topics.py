"""The topics: which shard is which partition, and whether they, and the group, are as they must be."""

import asyncio
from collections.abc import Mapping

import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from homeserver.bus.bus import BusUnavailable
from homeserver.bus.kafka.connection import Connection, explained
from homeserver.config.options import Bus as BusOptions
from storage.log import ShardMap

MAX_RECORD_BYTES = 8 * 1024 * 1024
"""Largest batch that new topics take: far above any event, and above what one request may bring."""
MESSAGES_RETENTION_MS = 3_600_000
READY_SECONDS = 15.0
"""How long new topics may take until each of their partitions has a leader."""


class Layout(msgspec.Struct, frozen=True):
    """The names of the topics, and where in them each shard lies."""

    prefix: str
    shards: ShardMap

    @property
    def room_log(self) -> str:
        return f"{self.prefix}.room-log"

    @property
    def user_log(self) -> str:
        return f"{self.prefix}.user-log"

    @property
    def messages(self) -> str:
        return f"{self.prefix}.messages"

    @property
    def group(self) -> str:
        """The consumer group that the replicas are."""
        return f"{self.prefix}-replicas"

    def place(self, shard: int) -> TopicPartition:
        if shard >= ShardMap.USER_BASE:
            return TopicPartition(self.user_log, shard - ShardMap.USER_BASE)
        return TopicPartition(self.room_log, shard)

    def places(self) -> dict[TopicPartition, int]:
        """The partition of each shard."""
        shards = (*self.shards.room_shards(), *self.shards.user_shards())
        return {self.place(shard): shard for shard in shards}


class Topics:
    """Makes sure of the topics, when the server starts and from time to time."""

    def __init__(self, connection: Connection, layout: Layout, options: BusOptions) -> None:
        self._connection = connection
        self._layout = layout
        self._replication = options.replication_factor or -1
        self.largest_record = MAX_RECORD_BYTES
        """What each of the logs' topics takes, in bytes."""
        self.largest_messages = MAX_RECORD_BYTES
        """What the topic of messages takes."""
        settings = {
            "cleanup.policy": "delete",
            "retention.ms": str(int(options.retention)),
            "max.message.bytes": str(MAX_RECORD_BYTES),
        }
        of_messages = {
            **settings,
            "retention.ms": str(MESSAGES_RETENTION_MS),
            "message.timestamp.type": "LogAppendTime",
        }
        self._wanted = {
            layout.room_log: (layout.shards.rooms, settings),
            layout.user_log: (layout.shards.users, settings),
            layout.messages: (1, of_messages),
        }

    async def ensure(self) -> None:
        """Create what is missing, check what is there. Raises BusUnavailable with what to do about it."""
        await self._look(create=True)

    async def check(self) -> None:
        """Only look. Raises BusUnavailable with what to do about it."""
        await self._look(create=False)

    async def _look(self, *, create: bool) -> None:
        admin = AIOKafkaAdminClient(**self._connection.options())
        try:
            async with asyncio.timeout(READY_SECONDS):
                await admin.start()
                while (found := await self._found(admin, create)) is None:
                    await asyncio.sleep(0.1)
                await self._check_group(admin)
        except (KafkaError, OSError, TimeoutError) as error:
            raise BusUnavailable(f"topics {self._layout.prefix}.*: {explained(error)}") from error
        finally:
            await admin.close()
        self._check_partitions({name: partitions for name, (partitions, _) in found.items()})
        self._check_settings({name: settings for name, (_, settings) in found.items()})

    async def _check_group(self, admin: AIOKafkaAdminClient) -> None:
        """Who may not be in the group of replicas would own no shard, and do nothing behind the log."""
        try:
            await admin.find_coordinator(self._layout.group)
        except GroupAuthorizationFailedError as error:
            raise BusUnavailable(f"group {self._layout.group}: {explained(error)}") from error
        except GroupCoordinatorNotAvailableError:
            pass  # The brokers are about to choose one.

    async def _found(
        self, admin: AIOKafkaAdminClient, create: bool
    ) -> dict[str, tuple[int, Mapping[str, str]]] | None:
        """The partitions and settings of all topics; None while not all are there, which they soon are."""
        settings = await self._settings(admin)
        if missing := [name for name in self._wanted if name not in settings]:
            if not create:
                raise BusUnavailable(
                    f"topic {', '.join(missing)} is missing: it is created when a server starts"
                )
            await self._create(admin, missing)
            return None
        described = await admin.describe_topics(list(self._wanted))
        if not all(map(_led, described)):
            return None
        return {topic["topic"]: (len(topic["partitions"]), settings[topic["topic"]]) for topic in described}

    async def _settings(self, admin: AIOKafkaAdminClient) -> dict[str, Mapping[str, str]]:
        """The settings of those topics that are there. (To ask for metadata might create the others.)"""
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in self._wanted]
        found: dict[str, Mapping[str, str]] = {}
        for response in await admin.describe_configs(resources):
            for code, message, _, name, settings, *_ in response.resources:
                error = for_code(code)
                if error is NoError:
                    found[name] = {setting[0]: setting[1] for setting in settings}
                elif error is not UnknownTopicOrPartitionError:
                    raise error(message)
        return found

    async def _create(self, admin: AIOKafkaAdminClient, names: list[str]) -> None:
        topics = []
        for name in names:
            partitions, settings = self._wanted[name]
            topics.append(
                NewTopic(name, partitions, self._replication, replica_assignments={}, topic_configs=settings)
            )
        for name, code, *message in (await admin.create_topics(topics)).topic_errors:
            error = for_code(code)
            if error not in (NoError, TopicAlreadyExistsError):
                reason = (message and message[0]) or error.description
                raise BusUnavailable(
                    f"topic {name} cannot be created: {reason} Look at bus.replication_factor and at what "
                    "the user in bus.sasl.user may do, or create it yourself (docs/kafka.md)"
                )

    def _check_partitions(self, found: Mapping[str, int]) -> None:
        for name, (wanted, _) in self._wanted.items():
            if found[name] != wanted:
                raise BusUnavailable(
                    f"topic {name} has {found[name]} partitions, and the store needs {wanted}: one for each "
                    "shard. Delete the topic (it is created anew), or choose another bus.topic_prefix"
                )

    def _check_settings(self, found: Mapping[str, Mapping[str, str]]) -> None:
        layout = self._layout
        for name in (layout.room_log, layout.user_log):
            if "compact" in found[name]["cleanup.policy"]:
                raise BusUnavailable(
                    f"topic {name} has cleanup.policy={found[name]['cleanup.policy']}, and needs delete: "
                    "compaction takes records out. Alter it with kafka-configs.sh"
                )
        stamps = found[layout.messages]["message.timestamp.type"]
        if stamps != "LogAppendTime":
            raise BusUnavailable(
                f"topic {layout.messages} has message.timestamp.type={stamps}, and needs LogAppendTime. "
                "Alter it with kafka-configs.sh, or delete the topic (it is created anew)"
            )
        largest = {
            name: min(MAX_RECORD_BYTES, int(settings["max.message.bytes"]))
            for name, settings in found.items()
        }
        self.largest_record = min(largest[layout.room_log], largest[layout.user_log])
        self.largest_messages = largest[layout.messages]


def _led(topic: Mapping[str, object]) -> bool:
    """Whether a topic is there and each of its partitions has a leader."""
    partitions = topic["partitions"]
    assert isinstance(partitions, list)
    return topic["error_code"] == 0 and all(partition["leader"] >= 0 for partition in partitions)
