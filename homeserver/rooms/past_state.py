"""The state of a room as it was (state is a timeline: see docs/architecture.md)."""

from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.stored_events import StoredEvents
from storage.log import Kind, Log


async def state_at(
    log: Log, stored: StoredEvents, room: Room, position: int, *, after: int | None = None
) -> list[RoomEvent]:
    """The state at the boundary above `position`; with `after`, only what changed since that boundary.

    Keys that have not changed since `position` come from memory, the others from the log.
    """
    unchanged: list[RoomEvent] = []
    later: list[tuple[str, str]] = []
    for key, event in room.head.state.items():
        if event.position > position:
            later.append(key)
        elif after is None or event.position > after:
            unchanged.append(event)
    if later and position > 0:
        refs = await log.current_at(room.shard, room.room_id, Kind.EVENT, position, later)
        wanted = [
            ref.event_id
            for ref in refs
            if ref.event_id is not None and (after is None or ref.position > after)
        ]
        if wanted:
            unchanged.extend((await stored.by_id(room.room_id, wanted)).values())
    return unchanged
