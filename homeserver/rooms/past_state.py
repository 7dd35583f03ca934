"""The state of a room as it was (state is a timeline: see docs/architecture.md)."""

from collections.abc import Sequence
from typing import NamedTuple

from homeserver.rooms.reading_order import gap_of, is_between
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.stored_events import StoredEvents
from storage.log import Kind, Log


class _PastState(NamedTuple):
    position: int
    after: int | None
    events: Sequence[RoomEvent]


async def state_at(
    log: Log, stored: StoredEvents, room: Room, position: int, *, after: int | None = None
) -> Sequence[RoomEvent]:
    """The state at the boundary above `position`; with `after`, only what changed since that boundary.

    Keys that have not changed since `position` come from memory, the others from the log. The last answer
    is kept while nothing happens in the room: many readers begin with the same newest events.

    Of history that was fetched the state is known in part (`homeserver.graph.past`); the rest is as it was
    when this server came in, which it did again after a gap.
    """
    if is_between(position):
        position = await _came_in_at(log, room, gap_of(position))
    known = room.fragments.get("past state", _PastState)
    if known is not None and (known.position, known.after) == (position, after):
        return known.events
    seen = room.last_seq
    unchanged: list[RoomEvent] = []
    later: list[tuple[str, str]] = []
    for key, event in room.head.state.items():
        if event.position > position:
            later.append(key)
        elif after is None or event.position > after:
            unchanged.append(event)
    earlier: Sequence[RoomEvent] = ()
    if later and position != 0:
        refs = await log.current_at(room.shard, room.room_id, Kind.EVENT, position, later)
        if position < 0:
            found = {(ref.type, ref.key) for ref in refs}
            missing = [key for key in later if key not in found]
            refs += await log.current_at(
                room.shard, room.room_id, Kind.EVENT, await _came_in_at(log, room, 0), missing
            )
        wanted = [ref for ref in refs if after is None or ref.came_at > after]
        earlier = await stored.current(room.room_id, wanted)
    events = [*unchanged, *earlier]
    if room.last_seq == seen:
        size = 8 * len(unchanged) + sum(event.size() for event in earlier)
        room.fragments.keep("past state", _PastState(position, after, events), size)
    return events


async def _came_in_at(log: Log, room: Room, gap: int) -> int:
    """The boundary below the first event that this server saw itself after a gap."""
    page = await log.page(room.shard, room.room_id, kind=Kind.EVENT, after=gap, limit=1)
    return page[0].position - 1 if page else gap
