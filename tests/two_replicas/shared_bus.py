"""A bus between replicas in one process: what the port promises and no more, to test who must be told what.

Messages reach everybody in one order, a turn of the event loop later at the earliest. The real one is tested
in `tests.bus`.
"""

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from homeserver.bus.bus import POSITIONS_PER_MS, BusListener, OnMessage, Ownership
from homeserver.bus.kafka.records import ForeignRecord, Records
from homeserver.bus.kafka.topics import MAX_RECORD_BYTES
from homeserver.clock import system_clock
from storage.log import Entry, ShardMap


class Exchange:
    """Where the replicas meet. Shards are dealt to them in turn."""

    def __init__(self, shards: ShardMap, addresses: Sequence[str]) -> None:
        self._shards = (*shards.room_shards(), *shards.user_shards())
        self._addresses = addresses
        self._position = 0
        self._waiting: list[Callable[[], None]] = []
        self.members: list[SharedBus | None] = [None] * len(addresses)
        self.held = False
        """Nothing is handed over."""
        self.unfit: list[Entry] = []
        """What was published and would not be the same once it came out of Kafka."""
        self._records = Records("store")

    def member(self, number: int) -> "SharedBus":
        bus = self.members[number] = SharedBus(self, number)
        return bus

    def leave(self, number: int) -> None:
        """Somebody is gone: the shards go to who is left."""
        self.members[number] = None
        self.deal()

    def deal(self) -> None:
        left = [
            number for number, bus in enumerate(self.members) if bus is not None and bus.listener is not None
        ]
        owners = {shard: left[i % len(left)] for i, shard in enumerate(self._shards)} if left else {}
        addresses = {shard: self._addresses[number] for shard, number in owners.items()}
        for number in left:
            own = frozenset(shard for shard, owner in owners.items() if owner == number)
            self._each(number, lambda listener, own=own: listener.on_ownership(Ownership(own, addresses)))

    def tell(self, kind: str, body: bytes) -> None:
        self._position = max(self._position + 1, system_clock() * POSITIONS_PER_MS)
        position = self._position

        def deliver() -> None:
            for bus in self.members:
                if bus is not None and kind in bus.subscribers:
                    bus.subscribers[kind](position, body)

        self._hand_over(deliver)

    def publish(self, sender: int, shard: int, entries: Sequence[Entry]) -> None:
        self.unfit += [entry for entry in entries if not self._is_fit(shard, entry)]

        def deliver() -> None:
            for number in range(len(self.members)):
                if number != sender:
                    self._each(number, lambda listener: listener.on_entries(shard, entries))

        self._hand_over(deliver)

    def _is_fit(self, shard: int, entry: Entry) -> bool:
        record = self._records.of(shard, entry, largest=MAX_RECORD_BYTES)
        try:
            return self._records.entry(record.key, record.value, record.headers) == replace(entry, txn=None)
        except ForeignRecord:
            return False

    def hold(self, held: bool) -> None:
        self.held = held
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._deliver)

    def _each(self, number: int, tell: Callable[[BusListener], None]) -> None:
        bus = self.members[number]
        if bus is not None and bus.listener is not None:
            tell(bus.listener)

    def _hand_over(self, deliver: Callable[[], None]) -> None:
        self._waiting.append(deliver)
        asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        while self._waiting and not self.held:
            self._waiting.pop(0)()


class SharedBus:
    """One replica's end of it."""

    shared = True

    def __init__(self, exchange: Exchange, number: int) -> None:
        self._exchange = exchange
        self._number = number
        self.subscribers: dict[str, OnMessage] = {}
        self.listener: BusListener | None = None

    def subscribe(self, kind: str, on_message: OnMessage) -> None:
        self.subscribers[kind] = on_message

    def tell(self, kind: str, body: bytes) -> None:
        self._exchange.tell(kind, body)

    async def start(self, listener: BusListener) -> None:
        self.listener = listener
        self._exchange.deal()

    async def publish(self, shard: int, entries: Sequence[Entry]) -> None:
        self._exchange.publish(self._number, shard, entries)

    async def close(self) -> None:
        self._exchange.leave(self._number)
