"""Who may read a room, and how much of it (spec: client-server "Room history visibility").

Former members see the room as it was when they left, others nothing unless the room is world-readable. Which
events are seen of what may be read: `visibility`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from homeserver.errors import forbidden
from homeserver.rooms.past_state import state_at
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.visibility import Visibility


class Access(NamedTuple):
    """What a reader sees of a room: up to `upto`, None for all of it as it is now."""

    room: Room
    upto: int | None


class RoomAccess:
    """Lets readers into rooms."""

    def __init__(self, rooms: Rooms, visibility: Visibility) -> None:
        self._rooms = rooms
        self._visibility = visibility

    async def of(self, room_id: str, user_id: str) -> Access:
        """Raises 403 for a room that the user was never in and may not peek into."""
        room = await self._rooms.get(room_id)
        if room is None:
            raise forbidden("You are not in this room")
        if user_id in room.joined:
            return Access(room, None)
        line = await self._visibility.sight_line(room, user_id)
        if line.last_left is not None:
            return Access(room, line.last_left)
        if room.history_visibility == "world_readable":
            return Access(room, None)
        raise forbidden("You are not in this room")

    async def of_whole(self, room_id: str, user_id: str) -> Access:
        """As `of`, once all members are known. Raises 503 if they are not after some time."""
        access = await self.of(room_id, user_id)
        return access._replace(room=await self._rooms.whole(access.room))

    async def state(self, access: Access) -> Sequence[RoomEvent]:
        """The room's state as the reader sees it."""
        if access.upto is None:
            return list(access.room.head.state.values())
        return await state_at(self._rooms.log, self._rooms.stored, access.room, access.upto)
