"""Which thread an event is in (spec: client-server "Threaded read receipts", "Threading")."""

from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.stored_events import StoredEvents

MAIN = "main"
MAX_HOPS = 3


def thread_in_memory(room: Room, event: RoomEvent) -> str | None:
    """The thread's root event id or "main"; None when that needs events that are not in memory."""
    current = event
    for _ in range(MAX_HOPS):
        if current.relates_to is None:
            return MAIN
        if current.rel_type == "m.thread":
            return current.relates_to
        parent = room.find(current.relates_to)
        if parent is None:
            return None
        current = parent
    return current.relates_to if current.rel_type == "m.thread" and current.relates_to else MAIN


async def thread_of(stored: StoredEvents, room: Room, event: RoomEvent) -> str:
    """The thread's root event id, or "main"."""
    current = event
    for _ in range(MAX_HOPS):
        if current.relates_to is None:
            return MAIN
        if current.rel_type == "m.thread":
            return current.relates_to
        parent = room.find(current.relates_to)
        if parent is None:
            parent = (await stored.by_id(room.room_id, [current.relates_to])).get(current.relates_to)
        if parent is None:
            return MAIN
        current = parent
    return current.relates_to if current.rel_type == "m.thread" and current.relates_to else MAIN
