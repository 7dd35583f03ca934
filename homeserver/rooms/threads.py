"""Which thread an event is in (spec: client-server "Threaded read receipts", "Threading")."""

from collections.abc import Generator

from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.stored_events import StoredEvents

MAIN = "main"
MAX_HOPS = 3


def thread_in_memory(room: Room, event: RoomEvent) -> str | None:
    """The thread's root event id or "main"; None when that needs events that are not in memory."""
    walk = _walk(event)
    try:
        wanted = next(walk)
        while (parent := room.find(wanted)) is not None:
            wanted = walk.send(parent)
    except StopIteration as found:
        thread: str = found.value
        return thread
    return None


async def thread_of(stored: StoredEvents, room: Room, event: RoomEvent) -> str:
    """The thread's root event id, or "main"."""
    walk = _walk(event)
    try:
        wanted = next(walk)
        while True:
            parent = room.find(wanted) or (await stored.by_id(room.room_id, [wanted])).get(wanted)
            wanted = walk.send(parent)
    except StopIteration as found:
        thread: str = found.value
        return thread


def _walk(event: RoomEvent) -> Generator[str, RoomEvent | None, str]:
    """From an event up its relations: asks for parents by id, and ends with the thread."""
    current: RoomEvent | None = event
    for _ in range(MAX_HOPS + 1):
        if current is None or current.relates_to is None:
            return MAIN
        if current.rel_type == "m.thread":
            return current.relates_to
        current = yield current.relates_to
    return MAIN
