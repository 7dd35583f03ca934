"""Which thread an event is in (spec: client-server "Threaded read receipts", "Threading")."""

from collections.abc import Generator

from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.stored_events import StoredEvents

MAIN = "main"
MAX_HOPS = 3


def thread_in_memory(room: Room, event: RoomEvent) -> str | None:
    """The thread's root event id or "main"; None when that needs events that are not in memory."""
    if event.relates_to is None:
        return MAIN
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
            wanted = walk.send(await _find(stored, room, wanted))
    except StopIteration as found:
        thread: str = found.value
        return thread


async def belongs_to(stored: StoredEvents, room: Room, event: RoomEvent, root: str) -> bool:
    """Whether an event is a thread's root, or leads to it by relations of any kind.

    Clients read a thread from its root on, with the reactions and references to it: wider than `thread_of`.
    """
    current: RoomEvent | None = event
    for _ in range(MAX_HOPS + 1):
        if current is None:
            return False
        if root in (current.event_id, current.relates_to):
            return True
        if current.relates_to is None:
            return False
        current = await _find(stored, room, current.relates_to)
    return False


async def _find(stored: StoredEvents, room: Room, event_id: str) -> RoomEvent | None:
    return room.find(event_id) or (await stored.by_id(room.room_id, [event_id])).get(event_id)


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
