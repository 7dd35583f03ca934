"""Tells other servers of the presence of this one's users (spec: server-server "Presence").

A server is told that shares a room with the user, as far as the room is in memory: of those who are not
offline when it comes in, and of changes from then on. What does not change is said again from time to time: a
server takes somebody for gone of whom it hears nothing for long.
"""

from collections.abc import Callable, Iterable, Mapping

from homeserver.clock import Clock
from homeserver.outbox import Outbox
from homeserver.presence.user_presence import OFFLINE, Shown, UserPresence
from homeserver.protocol.identifiers import server_name_of, server_of_member
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.told_servers import MEMBER
from storage.log import Entry, Kind

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
        self._newcomers: set[tuple[str, str]] = set()
        """Servers that have come into a room, with that, and know nothing yet."""

    def is_due(self, user_id: str) -> bool:
        """Whether it is time to say once more how somebody is who is not offline."""
        return self._now() - self._told_at.get(user_id, self._now()) >= AGAIN_AFTER_MS

    def tell(self, user: UserPresence, shown: Shown, room_ids: Iterable[str]) -> None:
        """Tell what clients here are told of a user who is in these rooms."""
        if shown.state == OFFLINE:
            self._told_at.pop(user.user_id, None)
        else:
            self._told_at[user.user_id] = self._now()
        rooms = (self._rooms.cached(room_id) for room_id in room_ids)
        self._say(user, shown, {server for room in rooms if room is not None for server in room.servers})

    def comes_in(self, entry: Entry, room: Room) -> bool:
        """Whether another server has come into a room by the event of an entry; it is to be told, then."""
        if entry.kind is not Kind.EVENT or entry.type != MEMBER or entry.key is None:
            return False
        server = server_of_member(entry.key)
        if server is None or server == self._server_name:
            return False
        is_new = room.present_since.get(server) == entry.position
        if is_new:
            self._newcomers.add((server, room.room_id))
        return is_new

    def tell_newcomers(self, here: Mapping[str, UserPresence], owns: Callable[[str], bool]) -> None:
        """Tell servers that have come into rooms of those there whom this replica tells of."""
        newcomers, self._newcomers = self._newcomers, set()
        for server, room_id in newcomers:
            room = self._rooms.cached(room_id)
            for user_id in room.joined if room is not None else ():
                user = here.get(user_id)
                is_own = server_name_of(user_id) == self._server_name
                if user is not None and is_own and user.told.state != OFFLINE and owns(user_id):
                    self._say(user, user.told, {server})

    def _say(self, user: UserPresence, shown: Shown, servers: set[str]) -> None:
        now = self._now()
        said: JsonObject = {
            "user_id": user.user_id,
            "presence": shown.state,
            "last_active_ago": max(0, now - (user.last_active or now)),
            "currently_active": shown.active,
        }
        if shown.status_msg is not None:
            said["status_msg"] = shown.status_msg
        self._outbox.tell(servers - {self._server_name}, "m.presence", user.user_id, {"push": [said]})
