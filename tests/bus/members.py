"""Members of a bus under test: each records what it is told."""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from homeserver.bus.bus import Ownership
from homeserver.bus.kafka.bus import KafkaBus
from homeserver.clock import system_clock
from homeserver.config.options import Bus as BusOptions
from storage.log import Entry, ShardMap
from storage.store import StoreInfo
from tests.storage.entries import message

KIND = "test"
SHARDS = ShardMap(rooms=4, users=3)
ALL_SHARDS = frozenset((*SHARDS.room_shards(), *SHARDS.user_shards()))


def prefix() -> str:
    """A topic prefix that no other test has."""
    return f"test-{secrets.token_hex(6)}"


def options(bootstrap: str, topic_prefix: str) -> BusOptions:
    return BusOptions(uri=f"kafka://{bootstrap}", topic_prefix=topic_prefix)


class Member:
    """A replica, reduced to what it hears over the bus."""

    def __init__(
        self,
        bus_options: BusOptions,
        name: str = "a",
        *,
        epoch: str = "epoch",
        shards: ShardMap = SHARDS,
    ) -> None:
        self.name = name
        store = StoreInfo(epoch=epoch, server_name="example.org", shards=shards, format=1)
        self.bus = KafkaBus(bus_options, store, f"{name}:80", system_clock)
        self.bus.subscribe(KIND, self._on_message)
        self.entries: dict[int, list[Entry]] = defaultdict(list)
        self.messages: list[tuple[int, bytes]] = []
        self.ownership = Ownership(frozenset())
        self.connected: list[bool] = []

    def on_entries(self, shard: int, entries: Sequence[Entry]) -> None:
        self.entries[shard] += entries

    def on_ownership(self, ownership: Ownership) -> None:
        self.ownership = ownership

    def on_connection(self, connected: bool) -> None:
        self.connected.append(connected)

    def _on_message(self, position: int, body: bytes) -> None:
        self.messages.append((position, body))

    def bodies(self) -> list[bytes]:
        return [body for _, body in self.messages]

    def seqs(self, shard: int) -> list[int]:
        """The numbers of a shard's entries as they came, without those that came again."""
        seen = 0
        return [seen := entry.seq for entry in self.entries[shard] if entry.seq > seen]

    def tell(self, body: bytes) -> None:
        self.bus.tell(KIND, body)

    async def publish(self, shard: int, first: int, last: int) -> list[Entry]:
        """Publish numbered messages."""
        entries = [replace(message(f"{shard}/{seq}"), seq=seq) for seq in range(first, last + 1)]
        await self.bus.publish(shard, entries)
        return entries


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)
