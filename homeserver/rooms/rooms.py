"""The rooms in use: loaded from the log, kept up by it, evicted by a memory budget.

`Rooms.get` gives the aggregate of a room; `Rooms.on_entries` is told of everything appended to the
room shards, whoever appended it. One `ShardWriter` per room shard extends the log.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from weakref import WeakValueDictionary

import orjson

from homeserver.clock import Clock
from homeserver.errors import unavailable
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.rooms.event_meta import decode_meta
from homeserver.rooms.reading_order import in_gap, lower_end
from homeserver.rooms.room import (
    CREATE,
    GAPS_KEPT,
    PAST_DECIDING,
    Room,
    RoomHead,
    receipt_of,
    sets_state,
    version_in,
)
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.stored_events import StoredEvents
from homeserver.shard_writer import Appended, Proposal, R, ShardWriter
from storage.log import Entry, Kind, Log, ShardMap

LOADED_TIMELINE = 30
LOOKED_BACK = 500
"""In how many more events of a room the newest activity is looked for when it is loaded."""
EVICT_EVERY = 256
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
        self.writers: dict[int, ShardWriter] = {}
        self.activity: dict[str, int] = {}
        """Room → last seq of any kind since this process follows the log; others have had nothing since."""
        self.started_at: dict[int, int] = {}
        """Room shard → its tail when this process began to follow it."""
        self._rooms: OrderedDict[str, Room] = OrderedDict()
        self._held: WeakValueDictionary[str, Room] = WeakValueDictionary()
        """Evicted rooms that somebody still has in hand: kept up, since what is built on them has to follow
        upon all that there is."""
        self._loading: dict[str, asyncio.Task[Room | None]] = {}
        self._missed: dict[str, list[Entry]] = {}
        """Room being loaded → its entries that came since."""
        self.memory_budget = memory_budget
        """Bytes, as `Room.size` estimates them."""
        self._now = now
        self._becoming_whole: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        """Partial room → who waits until it is whole."""
        self._followers: list[OnRoomEntry] = []
        self._consumers: list[Callable[[int, Sequence[Appended]], None]] = []
        self._grown_since_eviction = 0

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
        """How many rooms are in memory, and what they take, in bytes as `Room.size` estimates them."""
        return len(self._rooms), sum(room.size for room in self._rooms.values())

    async def get(self, room_id: str) -> Room | None:
        """The room, None when this server does not know it."""
        room = self._rooms.get(room_id)
        if room is None and (room := self._held.pop(room_id, None)) is not None:
            self._rooms[room_id] = room
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
        self._rooms[room.room_id] = room

    def drop(self, room_id: str) -> None:
        """Forget the memory of a room (a creation that failed, a purge); the log still has it."""
        self._rooms.pop(room_id, None)
        self._held.pop(room_id, None)

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
        self._note_growth(len(appended))

    def keep_past(self, room: Room, page: Sequence[RoomEvent]) -> None:
        """Let the room keep what was read of its past; see `Room.keep_past`."""
        self._note_growth(room.keep_past(page))

    async def _load(self, room_id: str) -> Room | None:
        shard = self.shards.of_room(room_id)
        writer = self.writers[shard]
        # Another replica may just have made the room.
        await writer.catch_up()
        missed = self._missed[room_id] = []
        try:
            room = await self._read(room_id, shard)
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
            existing = self._rooms.setdefault(room_id, room)
        finally:
            del self._missed[room_id]
        self._evict()
        return existing

    async def _read(self, room_id: str, shard: int) -> Room | None:
        """The room at the present tail of its shard; its state may be of a later moment, to which the
        entries that are missed meanwhile lead."""
        log = self.log
        tail = self.writers[shard].tail
        refs = await log.current(shard, room_id, Kind.EVENT)
        resolved = [ref.came_at for ref in refs if ref.kind is Kind.STATE]
        learnt = [ref.seq for ref in refs if ref.kind is Kind.STATE and ref.came_at != ref.position]
        refs = [ref for ref in refs if ref.event_id is not None]
        entries = await log.entries(shard, [ref.seq for ref in refs])
        if not entries:
            return None
        page = await log.page(
            shard,
            room_id,
            kind=Kind.EVENT,
            after=0,
            before=tail + 1,
            newest_first=True,
            limit=LOADED_TIMELINE,
        )
        page.reverse()
        known = {entry.seq for entry in entries}
        views = await self.stored.views(room_id, entries + [e for e in page if e.seq not in known])
        by_position = {view.position: view for view in views}
        create = next((entry for entry in entries if (entry.type, entry.key) == CREATE), None)
        room = Room(room_id, shard, _version_of(create, entries), self._now)
        state = RoomHead().state.mutate()
        for ref in refs:
            view = by_position.get(ref.came_at)
            if view is not None:
                state[ref.type, ref.key] = view
                room.size += view.size()
                if ref.type == "m.room.member":
                    room.note_member(view)
        for entry in page:
            room.add_to_timeline(by_position[entry.position])
        room.timeline_after = page[0].position - 1 if len(page) == LOADED_TIMELINE else 0
        await self._find_activity(room, page)
        room.head = RoomHead(state.finish())
        if page:
            tips = decode_meta(page[-1].meta).tips or (page[-1].event_id or "",)
            ends = await self._events_of(room, tips)
            room.head = room.head._replace(
                tips=tips,
                depth=max(view.depth for view in (*room.timeline, *ends)),
                tip_hashes={view.event_id: view.reference_hash for view in ends if view.reference_hash},
            )
        for entry in page:
            view = by_position[entry.position]
            if view.redacts is not None and view.state_key is None:
                # What it redacts may not be pruned in the log yet.
                room.redact(view, decode_meta(entry.meta).redacts_key)
        receipts = [ref for ref in await log.current(shard, room_id, Kind.RECEIPT) if ref.seq <= tail]
        for entry in await log.entries(shard, [ref.seq for ref in receipts]):
            room.apply_receipt(receipt_of(entry))
        room.receipt_order.sort()
        applied = (*(entry.seq for entry in page[-1:]), *(ref.seq for ref in (*refs, *receipts)))
        room.last_seq = max((seq for seq in applied if seq <= tail), default=0)
        room.created_ts = create.ts if create is not None else 0
        room.resolved_at = max(resolved, default=0)
        if learnt:
            room.learnt = range(min(learnt), max(learnt) + 1)
        room.was_told = any(ref.kind is Kind.STATE and (ref.type, ref.key) in PAST_DECIDING for ref in refs)
        room.is_whole = create is not None and create.kind is Kind.EVENT
        gaps = await log.page(
            shard, room_id, kind=Kind.GAP, before=tail + 1, newest_first=True, limit=GAPS_KEPT - 1
        )
        for gap in sorted(entry.seq for entry in gaps):
            await self._find_past(room, gap)
        if not room.is_whole:
            await self._find_past(room, 0)
            partial = await log.current(shard, room_id, Kind.PARTIAL)
            for entry in await log.entries(shard, [ref.seq for ref in partial]):
                room.apply_partial(entry)
        return room

    async def _find_past(self, room: Room, gap: int) -> None:
        """Note what was fetched into a gap of the timeline, or of what was before it."""
        after, before = lower_end(gap), in_gap(gap, 0)
        page = await self.log.page(
            room.shard, room.room_id, kind=Kind.EVENT, after=after, before=before, limit=1
        )
        room.note_gap(gap, page[0].position if page else None)
        if gap == 0 and page:
            room.is_whole = page[0].type == "m.room.create"

    async def _events_of(self, room: Room, event_ids: Sequence[str]) -> Sequence[RoomEvent]:
        """Events of the room's timeline, most of them among the newest."""
        known = {view.event_id: view for view in room.timeline if view.event_id in event_ids}
        older = [event_id for event_id in event_ids if event_id not in known]
        return [*known.values(), *(await self.stored.by_id(room.room_id, older) if older else {}).values()]

    async def _find_activity(self, room: Room, newest: Sequence[Entry]) -> None:
        """Look back to the newest activity: people who only come and go must not move a room when it is
        loaded again. Nor may events that claim to be of a time still to come: they are passed over.
        """
        now = self._now()
        for entry in newest:
            if entry.ts <= now:
                room.note_activity(entry)
        if room.bumped.position or not room.timeline_after:
            return
        older = await self.log.page(
            room.shard,
            room.room_id,
            kind=Kind.EVENT,
            before=room.timeline_after + 1,
            newest_first=True,
            limit=LOOKED_BACK,
        )
        for entry in older:
            if entry.ts <= now:
                room.note_activity(entry)
            if room.bumped.position:
                return

    def _note_growth(self, events: int) -> None:
        self._grown_since_eviction += events
        if self._grown_since_eviction >= EVICT_EVERY:
            self._grown_since_eviction = 0
            self._evict()

    def _evict(self) -> None:
        _, total = self.in_memory()
        while total > self.memory_budget and len(self._rooms) > 1:
            room_id, room = self._rooms.popitem(last=False)
            self._held[room_id] = room
            total -= room.size


def _version_of(create: Entry | None, state: Sequence[Entry]) -> RoomVersion:
    """The room version that the create event names, or, of a room that is only known from outside, the
    newest preview."""
    if create is not None:
        return version_in(orjson.loads(create.body)["content"])
    newest = max(state, key=lambda entry: entry.seq)
    preview = decode_meta(newest.meta).preview
    assert preview is not None
    return ROOM_VERSIONS[preview.room_version]
