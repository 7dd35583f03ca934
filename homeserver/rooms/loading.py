"""A room as it is read from the log, when it comes into memory."""

from collections.abc import Mapping, Sequence

import orjson

from homeserver.clock import Clock
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.rooms.event_meta import decode_meta
from homeserver.rooms.reading_order import in_gap, lower_end
from homeserver.rooms.room import (
    CREATE,
    GAPS_KEPT,
    PAST_DECIDING,
    Room,
    RoomHead,
    StateMap,
    receipt_of,
    version_in,
)
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.stored_events import StoredEvents
from storage.log import Entry, KeyedRef, Kind, Log

LOADED_TIMELINE = 30
LOOKED_BACK = 500
"""In how many more events of a room the newest activity is looked for when it is loaded."""


class Loading:
    """Reads rooms."""

    def __init__(self, log: Log, stored: StoredEvents, now: Clock) -> None:
        self._log = log
        self._stored = stored
        self._now = now

    async def read(self, room_id: str, shard: int, tail: int) -> Room | None:
        """The room at this tail of its shard, None if there is none.

        Its state may be of a later moment, to which the entries that are missed meanwhile lead.
        """
        refs = await self._log.current(shard, room_id, Kind.EVENT)
        present = [ref for ref in refs if ref.event_id is not None]
        entries = await self._log.entries(shard, [ref.seq for ref in present])
        if not entries:
            return None
        page = await self._log.page(
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
        views = await self._stored.views(room_id, entries + [e for e in page if e.seq not in known])
        by_position = {view.position: view for view in views}
        create = next((entry for entry in entries if (entry.type, entry.key) == CREATE), None)
        room = Room(room_id, shard, _version_of(create, entries), self._now)
        state = _state(room, present, by_position)
        await self._read_timeline(room, state, page, by_position)
        receipts = [ref for ref in await self._log.current(shard, room_id, Kind.RECEIPT) if ref.seq <= tail]
        for entry in await self._log.entries(shard, [ref.seq for ref in receipts]):
            room.apply_receipt(receipt_of(entry))
        room.receipt_order.sort()
        applied = (*(entry.seq for entry in page[-1:]), *(ref.seq for ref in (*present, *receipts)))
        room.last_seq = max((seq for seq in applied if seq <= tail), default=0)
        room.created_ts = create.ts if create is not None else 0
        _note_state_of_others(room, refs)
        room.is_whole = create is not None and create.kind is Kind.EVENT
        await self._find_gaps(room, tail)
        return room

    async def _read_timeline(
        self,
        room: Room,
        state: StateMap,
        page: Sequence[Entry],
        by_position: Mapping[int, RoomEvent],
    ) -> None:
        """The newest events, and the head to which they lead."""
        for entry in page:
            room.add_to_timeline(by_position[entry.position])
        room.timeline_after = page[0].position - 1 if len(page) == LOADED_TIMELINE else 0
        await self._find_activity(room, page)
        room.head = RoomHead(state)
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

    async def _events_of(self, room: Room, event_ids: Sequence[str]) -> Sequence[RoomEvent]:
        """Events of the room's timeline, most of them among the newest."""
        known = {view.event_id: view for view in room.timeline if view.event_id in event_ids}
        older = [event_id for event_id in event_ids if event_id not in known]
        return [*known.values(), *(await self._stored.by_id(room.room_id, older) if older else {}).values()]

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
        older = await self._log.page(
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

    async def _find_gaps(self, room: Room, tail: int) -> None:
        """Note what is missing of the timeline and, of a room that was come into, of what was before."""
        gaps = await self._log.page(
            room.shard, room.room_id, kind=Kind.GAP, before=tail + 1, newest_first=True, limit=GAPS_KEPT - 1
        )
        for gap in sorted(entry.seq for entry in gaps):
            await self._find_past(room, gap)
        if not room.is_whole:
            await self._find_past(room, 0)
            partial = await self._log.current(room.shard, room.room_id, Kind.PARTIAL)
            for entry in await self._log.entries(room.shard, [ref.seq for ref in partial]):
                room.apply_partial(entry)

    async def _find_past(self, room: Room, gap: int) -> None:
        """Note what was fetched into a gap of the timeline, or of what was before it."""
        after, before = lower_end(gap), in_gap(gap, 0)
        page = await self._log.page(
            room.shard, room.room_id, kind=Kind.EVENT, after=after, before=before, limit=1
        )
        room.note_gap(gap, page[0].position if page else None)
        if gap == 0 and page:
            room.is_whole = page[0].type == "m.room.create"


def _state(room: Room, present: Sequence[KeyedRef], by_position: Mapping[int, RoomEvent]) -> StateMap:
    """The room's present state, of whose size and members the room is told."""
    state = RoomHead().state.mutate()
    for ref in present:
        view = by_position.get(ref.came_at)
        if view is not None:
            state[ref.type, ref.key] = view
            room.size += view.size()
            if ref.type == "m.room.member":
                room.note_member(view)
    return state.finish()


def _note_state_of_others(room: Room, refs: Sequence[KeyedRef]) -> None:
    """Note of state that did not come with an event of the timeline: resolved, learnt later, or told."""
    room.resolved_at = max((ref.came_at for ref in refs if ref.kind is Kind.STATE), default=0)
    learnt = [ref.seq for ref in refs if ref.kind is Kind.STATE and ref.came_at != ref.position]
    if learnt:
        room.learnt = range(min(learnt), max(learnt) + 1)
    room.was_told = any(
        ref.kind is Kind.STATE and ref.event_id is not None and (ref.type, ref.key) in PAST_DECIDING
        for ref in refs
    )


def _version_of(create: Entry | None, state: Sequence[Entry]) -> RoomVersion:
    """The room version that the create event names, or, of a room that is only known from outside, the
    newest preview."""
    if create is not None:
        return version_in(orjson.loads(create.body)["content"])
    newest = max(state, key=lambda entry: entry.seq)
    preview = decode_meta(newest.meta).preview
    assert preview is not None
    return ROOM_VERSIONS[preview.room_version]
