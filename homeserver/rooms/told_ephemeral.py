"""Tells the other servers in a room who of this server's users types there, and what they have read.

Nobody misses it for long if it is lost (spec: server-server "Typing Notifications", "Receipts").
"""

from homeserver.outbox import Outbox
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.told_servers import others_in
from homeserver.users.users import Users


class ToldEphemeral:
    """Tells it."""

    def __init__(self, server_name: str, rooms: Rooms, users: Users, outbox: Outbox) -> None:
        self._server_name = server_name
        self._rooms = rooms
        self._users = users
        self._outbox = outbox

    def typing(self, room_id: str, user_id: str, *, typing: bool) -> None:
        """Somebody types, or types no more."""
        room = self._rooms.cached(room_id)
        if room is not None and self._users.is_local(user_id):
            content = {"room_id": room_id, "user_id": user_id, "typing": typing}
            self._outbox.tell(others_in(self._server_name, room), "m.typing", f"{room_id} {user_id}", content)

    def read(self, room: Room, user_id: str, event_id: str, thread_id: str | None, ts: int) -> None:
        """A user of this server has read up to an event."""
        data = {"ts": ts} if thread_id is None else {"ts": ts, "thread_id": thread_id}
        receipt = {"event_ids": [event_id], "data": data}
        self._outbox.tell(
            others_in(self._server_name, room),
            "m.receipt",
            f"{room.room_id} {user_id} {thread_id or ''}",
            {room.room_id: {"m.read": {user_id: receipt}}},
        )
