"""The bus of a server that is one process: there is nobody else to tell, and every shard is its own."""

from collections.abc import Sequence

from homeserver.bus.bus import POSITIONS_PER_MS, BusListener, OnMessage, Ownership
from homeserver.clock import Clock
from storage.log import Entry, ShardMap


class InProcessBus:
    """Hands messages over at once; entries go nowhere."""

    shared = False

    def __init__(self, shards: ShardMap, now: Clock) -> None:
        self._shards = shards
        self._now = now
        self._position = 0
        self._subscribers: dict[str, OnMessage] = {}

    def subscribe(self, kind: str, on_message: OnMessage) -> None:
        self._subscribers[kind] = on_message

    def tell(self, kind: str, body: bytes) -> None:
        self._position = max(self._position + 1, self._now() * POSITIONS_PER_MS)
        self._subscribers[kind](self._position, body)

    async def start(self, listener: BusListener) -> None:
        listener.on_ownership(
            Ownership(frozenset((*self._shards.room_shards(), *self._shards.user_shards())))
        )

    async def publish(self, shard: int, entries: Sequence[Entry]) -> None:
        return

    async def close(self) -> None:
        return
