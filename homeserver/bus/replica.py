"""This process as one of several that are alike: it follows what the others append, and owns some shards.

Every replica applies every shard of the log. Entries come over the bus from the shard's owner; gaps are
read from the log. Who appends to a shard without being its owner says how far it reaches now: the owner
then reads on and publishes, and whoever has not heard of the entries a moment later reads them, too. So
a dead owner costs a moment, and a bus that is away costs a look at the log every `AWAY_SECONDS`.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import NamedTuple

import structlog

from homeserver.bus.bus import Bus, Ownership
from homeserver.bus.consumer import Consumer
from homeserver.errors import unavailable
from homeserver.shard_writer import ShardWriter
from homeserver.tasks import end
from storage.errors import StoreError
from storage.log import Entry

log = structlog.get_logger(__name__)

TAIL = "tail"
"""Kind of message: "shard seq", the log reaches that far."""
OWNER_SECONDS = 0.1
"""How long the owner of a shard has to publish what was appended elsewhere."""
AWAY_SECONDS = 0.2
LOOK_SECONDS = 15.0
"""How often the log is looked at although the bus is there: a net beneath lost messages."""
REACH_SECONDS = 5.0


class ShardFamily(NamedTuple):
    """The room shards or the user shards."""

    writers: Mapping[int, ShardWriter]
    consumers: Sequence[Consumer]


class Replica:
    """Keeps writers and consumers in step with the log and with who owns what."""

    def __init__(self, bus: Bus) -> None:
        self.ownership = Ownership(frozenset())
        self._bus = bus
        self._writers: dict[int, ShardWriter] = {}
        self._consumers: list[Consumer] = []
        self._catching_up: dict[int, asyncio.Task[bool]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.connected = True
        """Whether the bus is there."""
        bus.subscribe(TAIL, self._on_tail)

    async def start(self, *families: ShardFamily) -> None:
        """Join the others. Raises BusUnavailable."""
        for writers, consumers in families:
            self._writers.update(writers)
            self._consumers += consumers
            for consumer in consumers:
                consumer.start({shard: writer.tail for shard, writer in writers.items()})
        await self._bus.start(self)
        if self._bus.shared:
            self._tasks.append(asyncio.create_task(self._keep_looking(), name="look-at-log"))

    async def close(self) -> None:
        """Stop following; the consumers finish what was handed over."""
        await end((*self._tasks, *self._catching_up.values()))
        await asyncio.gather(*(consumer.close() for consumer in self._consumers))
        await self._bus.close()

    @property
    def shared(self) -> bool:
        """Whether there may be others."""
        return self._bus.shared

    def owns(self, shard: int) -> bool:
        return shard in self.ownership.own

    # What others append

    def on_entries(self, shard: int, entries: Sequence[Entry]) -> None:
        if not self._writers[shard].follow(entries):
            self._catch_up(shard)

    def on_appended(self, shard: int, tail: int) -> None:
        """This replica has appended to a shard."""
        if self._bus.shared and not self.owns(shard):
            self._bus.tell(TAIL, b"%d %d" % (shard, tail))

    def _on_tail(self, position: int, body: bytes) -> None:
        shard, tail = map(int, body.split())
        if self._writers[shard].tail >= tail:
            return
        if self.owns(shard):
            self._catch_up(shard)
        else:
            asyncio.get_running_loop().call_later(OWNER_SECONDS, self._catch_up_to, shard, tail)

    def _catch_up_to(self, shard: int, tail: int) -> None:
        if self._writers[shard].tail < tail:
            self._catch_up(shard)

    def _catch_up(self, shard: int) -> "asyncio.Task[bool]":
        """Read what is in the log, once at a time for each shard; False when that is not possible now."""
        task = self._catching_up.get(shard)
        if task is None:
            task = asyncio.create_task(self._read(shard), name=f"catch-up-{shard}")
            self._catching_up[shard] = task
            task.add_done_callback(lambda _: self._catching_up.pop(shard, None))
        return task

    async def _read(self, shard: int) -> bool:
        try:
            await self._writers[shard].catch_up()
        except StoreError as error:
            log.warning("cannot follow the log now", shard=shard, error=str(error))
            return False
        return True

    async def _keep_looking(self) -> None:
        """Look at the log from time to time: often while the bus is away."""
        looked = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(AWAY_SECONDS)
            if not self.connected or loop.time() - looked >= LOOK_SECONDS:
                looked = loop.time()
                for shard in self._writers:
                    await self._read(shard)

    # Being up to date

    async def reach(self, tails: Mapping[int, int]) -> None:
        """Have followed these shards that far, or to their ends, before returning.

        A client may have seen that much at another replica. Raises 503 when that takes too long.
        """
        behind = [shard for shard, tail in tails.items() if self._writers[shard].tail < tail]
        if behind and self._bus.shared:
            await _all_followed([self._look(shard) for shard in behind])

    async def refresh(self, shards: Iterable[int]) -> None:
        """Have followed these shards to where they end now, whoever appended to them.

        That goes for shards of this replica's own, too: somebody else may take itself for their owner. Raises
        503 when it takes too long.
        """
        if self._bus.shared:
            await _all_followed([self._look(shard) for shard in shards])

    async def _look(self, shard: int) -> bool:
        if (under_way := self._catching_up.get(shard)) is not None:
            # It may have read before the moment that counts. All who wait for it share the next one.
            await asyncio.wait([under_way])
        return await asyncio.shield(self._catch_up(shard))

    # Who owns what

    def on_ownership(self, ownership: Ownership) -> None:
        gained, lost = ownership.own - self.ownership.own, self.ownership.own - ownership.own
        self.ownership = ownership
        if self._bus.shared:
            log.info("shards are divided", own=len(ownership.own), gained=len(gained), lost=len(lost))
        for consumer in self._consumers:
            consumer.own(ownership.own)
        for shard in gained:
            if self._bus.shared:
                self._catch_up(shard)

    def on_connection(self, connected: bool) -> None:
        if connected != self.connected:
            self.connected = connected
            log.warning("the bus is back" if connected else "the bus is away: the log is read instead")


async def _all_followed(reading: Sequence[Awaitable[bool]]) -> None:
    """Raises 503 unless all of them come to a good end soon."""
    try:
        async with asyncio.timeout(REACH_SECONDS):
            followed = await asyncio.gather(*map(asyncio.shield, reading))
    except TimeoutError:
        followed = [False]
    if not all(followed):
        raise unavailable("This replica cannot follow the log now")
