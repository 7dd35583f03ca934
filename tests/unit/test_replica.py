"""A replica on a shard of a real store, to which others append."""

import asyncio
from typing import Any

from homeserver.bus.bus import BusListener
from homeserver.bus.in_process import InProcessBus
from homeserver.bus.replica import Replica, ShardFamily
from homeserver.clock import system_clock
from homeserver.shard_writer import ShardWriter
from storage.log import Entry, Log, ShardMap
from storage.store import Store
from tests.storage.entries import append, message


class SharedBus(InProcessBus):
    """One over which nothing is heard of the others, who own all shards."""

    shared = True

    async def start(self, listener: BusListener) -> None:
        return


class SlowToAnswer:
    """A log whose answers say what it had when it was asked, and come when they are let go."""

    def __init__(self, of: Log) -> None:
        self._of = of
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    async def read(self, shard: int, after: int, limit: int) -> list[Entry]:
        entries = await self._of.read(shard, after, limit)
        self.asked.set()
        await self.go.wait()
        return entries


async def test_what_a_client_has_seen_elsewhere_is_followed_though_a_look_was_under_way(store: Store) -> None:
    log: Any = SlowToAnswer(store.log)
    writer = ShardWriter(0, log, 0, lambda shard, appended: None, lambda shard, tail: None)
    replica = Replica(SharedBus(ShardMap(1, 1), system_clock))
    await replica.start(ShardFamily({0: writer}, ()))
    looking = asyncio.create_task(replica.refresh([0]))
    await log.asked.wait()
    await append(store.log, 0, message("seen elsewhere"))
    reaching = asyncio.create_task(replica.reach({0: 1}))
    await asyncio.sleep(0.01)
    log.go.set()
    await reaching
    assert writer.tail == 1
    await looking
    await replica.close()
