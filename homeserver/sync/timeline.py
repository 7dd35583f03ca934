"""Which events of a room a sync shows: the newest ones after a position, from memory where possible."""

from typing import NamedTuple

from homeserver.rooms.event_filter import RoomEventFilter
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.stored_events import StoredEvents

PAGE = 200
MAX_PAGES = 10


class TimelineSlice(NamedTuple):
    """Events in order. `start` is the boundary below the first one: state and paging continue there."""

    events: list[RoomEvent]
    limited: bool
    start: int


async def newest_events(
    stored: StoredEvents,
    room: Room,
    *,
    after: int,
    upto: int,
    limit: int,
    wanted: RoomEventFilter,
) -> TimelineSlice:
    """The newest `limit` events with after < position ≤ upto that the filter lets through.

    None from below a gap: who reads on back from there comes to what is missing.
    """
    gap = max((gap for gap in room.gaps if gap < upto), default=0)
    if gap > after:
        above = await newest_events(stored, room, after=gap, upto=upto, limit=limit, wanted=wanted)
        start = above.events[0].position - 1 if above.events else upto
        return TimelineSlice(above.events, True, start)
    if after >= room.timeline_after or len(room.timeline) - room.first_after(after) > limit:
        memory = room.timeline[room.first_after(max(after, room.timeline_after)) : room.first_after(upto)]
        found = _last(memory, limit, wanted)
        if found is not None:
            return TimelineSlice(found, True, found[0].position - 1 if found else upto)
        if after >= room.timeline_after:
            return TimelineSlice(_matching(memory, wanted), False, after)
    return await _from_log(stored, room.room_id, after=after, upto=upto, limit=limit, wanted=wanted)


def _matching(events: list[RoomEvent], wanted: RoomEventFilter) -> list[RoomEvent]:
    return events if wanted.is_open else [event for event in events if wanted.matches_event(event)]


def _last(events: list[RoomEvent], limit: int, wanted: RoomEventFilter) -> list[RoomEvent] | None:
    """The last `limit` matching events if there are more than that, else None."""
    matching = _matching(events, wanted)
    if len(matching) <= limit:
        return None
    return matching[len(matching) - limit :]


async def _from_log(
    stored: StoredEvents, room_id: str, *, after: int, upto: int, limit: int, wanted: RoomEventFilter
) -> TimelineSlice:
    found: list[RoomEvent] = []
    before = upto + 1
    for _ in range(MAX_PAGES):
        page = await stored.page(
            room_id, after=after, before=before, newest_first=True, limit=min(PAGE, limit + 1)
        )
        for event in page:
            if wanted.matches_event(event):
                if len(found) == limit:
                    found.reverse()
                    return TimelineSlice(found, True, found[0].position - 1 if found else event.position)
                found.append(event)
        if len(page) < min(PAGE, limit + 1):
            found.reverse()
            return TimelineSlice(found, False, after)
        before = page[-1].position
    found.reverse()
    return TimelineSlice(found, True, before - 1)
