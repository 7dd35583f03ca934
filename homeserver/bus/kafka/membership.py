"""Who owns which shard: the replicas are one consumer group, of which Kafka tells who is alive.

The group reads nothing. A replica joins it with its address and the shards it has; the one that Kafka
makes leader divides them (`division`); and what each member is given back is the whole map, so that all
know the owner of every shard. While the broker is away the last map holds.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import msgspec
import structlog
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)
from aiokafka.errors import KafkaError

from homeserver.bus.bus import Ownership
from homeserver.bus.kafka.clients import Consumer
from homeserver.bus.kafka.connection import Connection, explained
from homeserver.bus.kafka.division import divide
from homeserver.bus.kafka.topics import Layout

log = structlog.get_logger(__name__)

SESSION_MS = 6_000
"""How long a replica may be silent before its shards go to the others; brokers refuse less by default."""
HEARTBEAT_MS = 1_000
REQUEST_MS = SESSION_MS + 3_000
"""The answer to a request to join comes when all have joined, or their sessions have ended."""
POLL_MS = 1_000
RETRY_SECONDS = 2.0
LEAVE_SECONDS = 5.0

OnOwnership = Callable[[Ownership], None]


class _Claim(msgspec.Struct, array_like=True, frozen=True):
    """What a member says of itself when it joins."""

    address: str
    round: int
    """The division that its shards are of: a later one outweighs an earlier one."""
    shards: tuple[int, ...]


class _Division(msgspec.Struct, array_like=True, frozen=True):
    """What a member is told."""

    round: int
    own: tuple[int, ...]
    by_address: dict[str, tuple[int, ...]]


class Membership:
    """This replica's place in the group."""

    def __init__(
        self, connection: Connection, layout: Layout, address: str, on_ownership: OnOwnership
    ) -> None:
        """`address`: host:port at which the other replicas reach this one."""
        self._connection = connection
        self._layout = layout
        self._assignor = _Assignor(layout, address, on_ownership)
        self._consumer: Consumer | None = None

    async def keep(self) -> None:
        """Be a member, for ever: join again after whatever ended it."""
        while True:
            self._consumer = Consumer(
                **self._connection.options(REQUEST_MS),
                group_id=self._layout.group,
                session_timeout_ms=SESSION_MS,
                heartbeat_interval_ms=HEARTBEAT_MS,
                enable_auto_commit=False,
                partition_assignment_strategy=(self._assignor,),
            )
            try:
                self._consumer.subscribe([self._layout.room_log, self._layout.user_log])
                await self._consumer.start()
                while True:
                    # Nothing comes; but this is how the library tells of errors, and sees signs of life.
                    await self._consumer.getmany(timeout_ms=POLL_MS)
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning(
                    "not in the group of replicas now", group=self._layout.group, error=explained(error)
                )
                await self._consumer.end()
                await asyncio.sleep(RETRY_SECONDS)

    async def leave(self) -> None:
        """Say good-bye, so that the others take over at once."""
        if self._consumer is not None:
            await self._consumer.end()


class _Assignor(AbstractPartitionAssignor):  # type: ignore[misc]  # the library is not typed
    """Divides the shards. The library calls for a class and is content with an object."""

    name = "weft-1"

    def __init__(self, layout: Layout, address: str, on_ownership: OnOwnership) -> None:
        self._families = (layout.shards.room_shards(), layout.shards.user_shards())
        self._address = address
        self._on_ownership = on_ownership
        self._round = 0
        self._own: tuple[int, ...] = ()

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What this member joins with."""
        claim = _Claim(self._address, self._round, self._own)
        return ConsumerProtocolMemberMetadata(0, list(topics), msgspec.msgpack.encode(claim))

    def assign(
        self, cluster: object, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """As the group's leader: what each member is to be told."""
        claims = {
            member: msgspec.msgpack.decode(metadata.user_data, type=_Claim)
            for member, metadata in members.items()
        }
        surest = sorted(claims, key=lambda member: (-claims[member].round, member))
        owned = divide(self._families, {member: claims[member].shards for member in surest})
        by_address: dict[str, tuple[int, ...]] = {}
        for member, shards in owned.items():
            address = claims[member].address
            by_address[address] = (*by_address.get(address, ()), *shards)
        this_round = 1 + max(claim.round for claim in claims.values())
        return {
            member: ConsumerProtocolMemberAssignment(
                0, [], msgspec.msgpack.encode(_Division(this_round, tuple(shards), by_address))
            )
            for member, shards in owned.items()
        }

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """What this member is told."""
        division = msgspec.msgpack.decode(assignment.user_data, type=_Division)
        self._round, self._own = division.round, division.own
        addresses = {shard: address for address, shards in division.by_address.items() for shard in shards}
        self._on_ownership(Ownership(frozenset(division.own), addresses))
