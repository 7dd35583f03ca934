"""The rooms in use: loaded from the log (`loading`), kept up by it, evicted by a memory budget.

`Rooms.get` gives the aggregate of a room; `Rooms.on_entries` is told of everything appended to the
room shards, whoever appended it. One `ShardWriter` per room shard extends the log.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from weakref import WeakValueDictionary

from homeserver.clock import Clock
from homeserver.errors import unavailable
from homeserver.rooms.loading import Loading
from homeserver.rooms.outline import Outline, outline_of
from homeserver.rooms.room import Room, sets_state
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.stored_events import StoredEvents
from homeserver.shard_writer import Appended, Proposal, R, ShardWriter
from storage.log import Entry, Kind, Log, ShardMap

GROWN_SHARE = 64
"""Rooms may exceed the budget by one part in so many before all are measured again, which takes a while."""
MAX_OUTLINES = 100_000
EVENT_BYTES = 1_000
"""What an event adds to a room, roughly."""
WHOLE_SECONDS = 60.0
"""How long a request waits for the members of a room."""

OnAppended = Callable[[int, int], None]
"""Told of a shard and its new tail when this process has appended to it."""
OnRoomEntry = Callable[[int, Entry, Room | None, RoomEvent | None], None]
"""Told of each entry of a room shard (its number first) after its room, if in memory, has taken it; not of
history that was fetched."""


class Rooms:
    """Rooms in memory, by id, least recently used first."""

    def __init__(self, log: Log, shards: ShardMap, now: Clock, *, memory_budget: int) -> None:
        self.log = log
        self.shards = shards
        self.stored = StoredEvents(log, shards, self.cached)
        self._reading = Loading(log, self.stored, now)
        self.writers: dict[int, ShardWriter] = {}
        self.activity: dict[str, int] = {}
        """Room → last seq of any kind since this process follows the log; others have had nothing since."""
        self.started_at: dict[int, int] = {}
        """Room shard → its tail when this process began to follow it."""
        self._rooms: OrderedDict[str, Room] = OrderedDict()
        self._held: WeakValueDictionary[str, Room] = WeakValueDictionary()
        """Evicted rooms that somebody still has in hand: kept up, since what is built on them has to follow
        upon all that there is."""
        self._outlines: dict[str, Outline] = {}
        """Of evicted rooms in which nothing has happened since, those evicted first first."""
        self._loading: dict[str, asyncio.Task[Room | None]] = {}
        self._missed: dict[str, list[Entry]] = {}
        """Room being loaded → its entries that came since."""
        self.memory_budget = memory_budget
        """Bytes, as `Room.memory` estimates them."""
        self._becoming_whole: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        """Partial room → who waits until it is whole."""
        self._followers: list[OnRoomEntry] = []
        self._consumers: list[Callable[[int, Sequence[Appended]], None]] = []
        self._grown_since_eviction = 0
        """Bytes, roughly: of new events, of rooms that were loaded, of fragments."""

    async def start(self, on_appended: OnAppended) -> None:
        """Begin to follow the room shards."""
        for shard in self.shards.room_shards():
            tail = await self.log.tail(shard)
            self.started_at[shard] = tail
            self.writers[shard] = ShardWriter(shard, self.log, tail, self.on_entries, on_appended)

    def follow(self, follower: OnRoomEntry) -> None:
        """`follower` is called for each entry from now on, in log order."""
        self._followers.append(follower)

    def feed(self, consumer: Callable[[int, Sequence[Appended]], None]) -> None:
        """`consumer` is given each batch of entries after it was applied here."""
        self._consumers.append(consumer)

    def tails(self) -> tuple[int, ...]:
        """How far each room shard has been applied here."""
        return tuple([writer.tail for writer in self.writers.values()])

    def cached(self, room_id: str) -> Room | None:
        """The room if it is in memory."""
        return self._rooms.get(room_id) or self._held.get(room_id)

    def in_memory(self) -> tuple[int, int]:
        """How many rooms are in memory, and what they take, in bytes as `Room.memory` estimates them."""
        return len(self._rooms), sum(room.memory() for room in self._rooms.values())

    async def outlined(self, room_id: str) -> Room | Outline | None:
        """The room, or its outline where that is all that is in memory; None as with `get`."""
        return self.cached(room_id) or self._outlines.get(room_id) or await self.get(room_id)

    async def get(self, room_id: str) -> Room | None:
        """The room, None when this server does not know it."""
        room = self._rooms.get(room_id)
        if room is None and (room := self._held.pop(room_id, None)) is not None:
            self._rooms[room_id] = room
            self._note_growth(room.memory())
        if room is not None:
            self._rooms.move_to_end(room_id)
            return room
        task = self._loading.get(room_id)
        if task is None:
            task = asyncio.create_task(self._load(room_id), name="load-room")
            self._loading[room_id] = task
            task.add_done_callback(lambda _: self._loading.pop(room_id, None))
        return await asyncio.shield(task)

    async def whole(self, room: Room) -> Room:
        """The room once all of its members are known. Raises 503 if they are not after some time."""
        if room.partial is None:
            return room
        await self.wait_until_whole(room.room_id, WHOLE_SECONDS)
        now = await self.get(room.room_id)
        if now is None or now.partial is not None:
            raise unavailable("The members of the room are still being asked of its servers")
        return now

    async def wait_until_whole(self, room_id: str, seconds: float) -> None:
        """Wait until a partial room has all of its members, but not for longer."""
        room = await self.get(room_id)
        if room is None or room.partial is None:
            return
        becomes_whole = self._becoming_whole.setdefault(room_id, asyncio.Event())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await becomes_whole.wait()

    def adopt(self, room: Room) -> None:
        """Take a room that is being created."""
        room.fragments.grown = self._note_growth
        self._rooms[room.room_id] = room

    def drop(self, room_id: str) -> None:
        """Forget the memory of a room (a creation that failed, a purge); the log still has it."""
        self._rooms.pop(room_id, None)
        self._held.pop(room_id, None)
        self._outlines.pop(room_id, None)

    def submit(self, room: Room, proposal: Proposal[R]) -> asyncio.Future[R]:
        """Append to the room's shard; see ShardWriter.submit."""
        return self.writers[room.shard].submit(proposal)

    async def catch_up(self, room: Room) -> None:
        """Apply to the room what others have appended. Raises StoreError."""
        await self.writers[room.shard].catch_up()

    def on_entries(self, shard: int, appended: Sequence[Appended]) -> None:
        """Apply what is in the log now to the rooms in memory, then tell the followers."""
        for item in appended:
            entry = item.entry
            self._outlines.pop(entry.stream, None)
            room = self.cached(entry.stream)
            view = room.apply(entry, item.view) if room is not None else None
            if room is None and (missed := self._missed.get(entry.stream)) is not None:
                missed.append(entry)
            if entry.is_past:
                # Past that was fetched is no news.
                continue
            self.activity[entry.stream] = entry.seq
            if entry.kind is Kind.PARTIAL and (waiting := self._becoming_whole.get(entry.stream)) is not None:
                waiting.set()
            for follower in self._followers:
                follower(shard, entry, room, view)
        for consumer in self._consumers:
            consumer(shard, appended)
        self._note_growth(EVENT_BYTES * len(appended))

    def keep_past(self, room: Room, page: Sequence[RoomEvent]) -> None:
        """Let the room keep what was read of its past; see `Room.keep_past`."""
        self._note_growth(EVENT_BYTES * room.keep_past(page))

    async def _load(self, room_id: str) -> Room | None:
        shard = self.shards.of_room(room_id)
        writer = self.writers[shard]
        # Another replica may just have made the room.
        await writer.catch_up()
        missed = self._missed[room_id] = []
        try:
            room = await self._reading.read(room_id, shard, writer.tail)
            if room is None:
                return None
            # What was read may hold entries of others that were not followed yet: now they are.
            await writer.catch_up()
            while missed:
                some = missed[:]
                del missed[:]
                views = await self.stored.views(room_id, [entry for entry in some if sets_state(entry)])
                by_position = {view.position: view for view in views}
                for entry in some:
                    room.apply(entry, by_position.get(entry.came_at))
            room.fragments.grown = self._note_growth
            existing = self._rooms.setdefault(room_id, room)
        finally:
            del self._missed[room_id]
        self._note_growth(room.size)
        return existing

    def _note_growth(self, size: int) -> None:
        self._grown_since_eviction += size
        if self._grown_since_eviction > self.memory_budget // GROWN_SHARE:
            self._evict()

    def _evict(self) -> None:
        self._grown_since_eviction = 0
        _, total = self.in_memory()
        while total > self.memory_budget and len(self._rooms) > 1:
            room_id, room = self._rooms.popitem(last=False)
            self._held[room_id] = room
            self._outlines[room_id] = outline_of(room)
            total -= room.memory()
        while len(self._outlines) > MAX_OUTLINES:
            del self._outlines[next(iter(self._outlines))]
