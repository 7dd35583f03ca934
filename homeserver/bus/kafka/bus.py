"""The bus between replicas over Kafka. Docs: `docs/kafka.md`."""

import asyncio
from collections.abc import Coroutine, Sequence

import structlog
from aiokafka import TopicPartition

from homeserver.bus.bus import BusListener, BusUnavailable, OnMessage
from homeserver.bus.kafka.connection import Connection
from homeserver.bus.kafka.follower import Follower
from homeserver.bus.kafka.membership import Membership
from homeserver.bus.kafka.messages import Messages
from homeserver.bus.kafka.publisher import Publisher
from homeserver.bus.kafka.records import Records
from homeserver.bus.kafka.topics import Layout, Topics
from homeserver.clock import Clock
from homeserver.config.options import Bus as BusOptions
from homeserver.tasks import end
from storage.log import Entry, ShardMap
from storage.store import StoreInfo

log = structlog.get_logger(__name__)

BEAT_SECONDS = 1.0
"""How often it is seen whether the bus is there, and how long a beat may take."""
GRACE_SECONDS = 0.5
"""This process may have been busy when a beat came back."""
FIRST_BEAT_SECONDS = 15.0
CHECK_SECONDS = 10.0
"""How often the topics are looked at: somebody may have deleted one."""
REPEAT_CHECKS = 6
"""A problem that stays is said again after so many checks."""
SETTLE_SECONDS = 1.0
DEAF_BEATS = 6
"""After so many beats that were taken and never given out it is the reader that needs to begin anew."""


async def check(options: BusOptions, shards: ShardMap) -> None:
    """Look whether Kafka is there and its topics are fit; creates nothing. Raises BusUnavailable."""
    connection = Connection.of(options)
    await connection.check()
    await Topics(connection, Layout(options.topic_prefix, shards), options).check()


class KafkaBus:
    """Entries, messages and ownership over three topics and a consumer group."""

    shared = True

    def __init__(self, options: BusOptions, store: StoreInfo, address: str, now: Clock) -> None:
        """`address`: host:port at which other replicas reach this one. Raises BusUnavailable."""
        self._connection = Connection.of(options)
        self._layout = Layout(options.topic_prefix, store.shards)
        self._topics = Topics(self._connection, self._layout, options)
        self._records = Records(store.epoch)
        # Messages have a producer of their own: they do not wait behind the log.
        self._entry_publisher = Publisher(self._connection, lambda: self._topics.largest_record)
        self._message_publisher = Publisher(self._connection, lambda: self._topics.largest_messages)
        self._messages = Messages(store.epoch, TopicPartition(self._layout.messages, 0), now)
        self._address = address
        self._listener: BusListener
        self._follower: Follower | None = None
        self._membership: Membership | None = None
        self._connected = False
        self._tasks: list[asyncio.Task[None]] = []

    def subscribe(self, kind: str, on_message: OnMessage) -> None:
        self._messages.subscribe(kind, on_message)

    def tell(self, kind: str, body: bytes) -> None:
        self._messages.tell(kind, body)

    async def start(self, listener: BusListener) -> None:
        self._listener = listener
        try:
            await self._connection.check()
            await self._topics.ensure()
            self._follower = Follower(
                self._connection, self._layout, self._records, listener.on_entries, self._messages
            )
            await self._follower.start()
            self._run(self._follower.follow(), "follow-kafka")
            self._run(self._messages.send(self._message_publisher), "send-messages")
            await self._first_beat()
        except BusUnavailable as error:
            await self.close()
            raise BusUnavailable(f"bus.uri: {error}") from error
        self._connected = True
        self._messages.set_connected(True)
        self._membership = Membership(self._connection, self._layout, self._address, listener.on_ownership)
        self._run(self._membership.keep(), "join-replicas")
        self._run(self._watch(), "watch-kafka")
        self._run(self._check(), "check-topics")

    async def publish(self, shard: int, entries: Sequence[Entry]) -> None:
        if not self._connected:
            raise BusUnavailable(f"Kafka is away ({self._messages.problem or 'it does not answer'})")
        largest = self._topics.largest_record
        records = [self._records.of(shard, entry, largest=largest) for entry in entries]
        await self._entry_publisher.publish(self._layout.place(shard), records)

    async def close(self) -> None:
        if self._connected:
            try:
                await self._messages.settle(SETTLE_SECONDS)
            except TimeoutError:
                log.warning("messages to other replicas may be lost: Kafka does not answer")
        self._connected = False
        self._messages.set_connected(False)
        await end(self._tasks)
        if self._membership is not None:
            await self._membership.leave()
        await self._entry_publisher.close()
        await self._message_publisher.close()
        if self._follower is not None:
            await self._follower.stop()

    def _run(self, coroutine: Coroutine[None, None, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(coroutine, name=name))

    # Whether the bus is there

    async def _first_beat(self) -> None:
        number = self._messages.beat()
        try:
            async with asyncio.timeout(FIRST_BEAT_SECONDS):
                while not self._messages.has_returned(number):
                    if self._messages.problem:
                        raise BusUnavailable(self._messages.problem)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise BusUnavailable("Kafka takes messages, and does not give them out again") from None

    async def _watch(self) -> None:
        """Tell of the bus going away and coming back."""
        deaf = 0
        while True:
            number = self._messages.beat()
            await asyncio.sleep(BEAT_SECONDS)
            if not self._messages.has_returned(number):
                await asyncio.sleep(GRACE_SECONDS)
            connected = self._messages.has_returned(number)
            if connected != self._connected:
                self._connected = connected
                self._messages.set_connected(connected)
                if not connected:
                    self._entry_publisher.give_up()
                self._listener.on_connection(connected)
            deaf = 0 if connected or self._messages.problem else deaf + 1
            if deaf > DEAF_BEATS and self._follower is not None:
                deaf = 0
                log.error("Kafka takes messages, and does not give them out: reading is begun anew")
                await self._follower.stop()

    async def _check(self) -> None:
        """Create topics that somebody deleted; say what is wrong with Kafka as long as it is."""
        said, times = "", 0
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await self._connection.check()
                await self._topics.ensure()
            except BusUnavailable as error:
                times = times + 1 if str(error) == said else 0
                said = str(error)
                if times % REPEAT_CHECKS == 0:
                    log.error("Kafka cannot be used as it is; the log is read instead", problem=said)
            else:
                said = ""
