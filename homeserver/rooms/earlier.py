"""What came before the oldest event that this server has of a room, which was elsewhere then.

A port: what is here is for a server without others.
"""

from typing import Protocol

from homeserver.rooms.room import Room


class EarlierEvents(Protocol):
    """Gets the past of rooms from other servers."""

    async def fetch(self, room: Room) -> bool:
        """Have the events next before the oldest one come into the log; whether some came.

        Bounds its time. Nothing is tried again at once that has just failed.
        """
        ...


class NoEarlierEvents:
    """Of a server that has nothing to do with others."""

    async def fetch(self, room: Room) -> bool:
        return False
