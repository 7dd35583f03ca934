"""Tells other servers of the presence of this one's users (spec: server-server "Presence").

A server is told that shares a room with the user, as far as the room is in memory. What does not change is
said again from time to time: a server takes somebody for gone of whom it hears nothing for long.
"""

from collections.abc import Iterable

from homeserver.clock import Clock
from homeserver.outbox import Outbox
from homeserver.presence.user_presence import OFFLINE, Shown, UserPresence
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.rooms import Rooms

AGAIN_AFTER_MS = 20 * 60_000
"""Synapse takes somebody for gone after 30 minutes."""


class ToldPresence:
    """Tells it."""

    def __init__(self, server_name: str, rooms: Rooms, outbox: Outbox, now: Clock) -> None:
        self._server_name = server_name
        self._rooms = rooms
        self._outbox = outbox
        self._now = now
        self._told_at: dict[str, int] = {}
        """User who is not offline → when that was told last."""

    def is_due(self, user_id: str) -> bool:
        """Whether it is time to say once more how somebody is who is not offline."""
        return self._now() - self._told_at.get(user_id, self._now()) >= AGAIN_AFTER_MS

    def tell(self, user: UserPresence, shown: Shown, room_ids: Iterable[str]) -> None:
        """Tell what clients here are told of a user who is in these rooms."""
        now = self._now()
        if shown.state == OFFLINE:
            self._told_at.pop(user.user_id, None)
        else:
            self._told_at[user.user_id] = now
        rooms = (self._rooms.cached(room_id) for room_id in room_ids)
        servers = {server for room in rooms if room is not None for server in room.servers}
        said: JsonObject = {
            "user_id": user.user_id,
            "presence": shown.state,
            "last_active_ago": max(0, now - (user.last_active or now)),
            "currently_active": shown.active,
        }
        if shown.status_msg is not None:
            said["status_msg"] = shown.status_msg
        self._outbox.tell(servers - {self._server_name}, "m.presence", user.user_id, {"push": [said]})
