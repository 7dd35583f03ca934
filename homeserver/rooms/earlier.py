"""What this server does not have of a room's past: of when it was not in it yet, or out of it for a time.

A port: what is here is for a server without others.
"""

from typing import Protocol

from homeserver.rooms.room import Room


class EarlierEvents(Protocol):
    """Gets the past of rooms from other servers."""

    async def fetch(self, room: Room, gap: int) -> bool:
        """Have more of the events that are missing in a gap come into the log, the newest; whether some came.

        Gap 0 is what was before the first event (see `reading_order`).

        Bounds its time. Nothing is tried again at once that has just failed.
        """
        ...


class NoEarlierEvents:
    """Of a server that has nothing to do with others."""

    async def fetch(self, room: Room, gap: int) -> bool:
        return False
