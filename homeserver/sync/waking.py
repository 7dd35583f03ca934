"""Whom an entry of the log wakes."""

from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.sync.device_lists import is_news
from homeserver.sync.served_members import ServedMembers
from homeserver.sync.wakeup import Wakeup
from homeserver.users.sessions import SESSIONS_CHANGED
from homeserver.users.users import Users
from storage.log import Entry, Kind


class Waking:
    """Follows rooms and users, and wakes the polls of those who have to hear of it."""

    def __init__(self, rooms: Rooms, users: Users, wakeup: Wakeup, served_members: ServedMembers) -> None:
        self._rooms = rooms
        self._users = users
        self._wakeup = wakeup
        self._served_members = served_members

    def room(self, room_id: str) -> None:
        """Wake those in a room, about which there is something new."""
        room = self._rooms.cached(room_id)
        if room is not None:
            self._wakeup.wake_among(room.joined)

    def on_room_entry(self, shard: int, entry: Entry, room: Room | None, view: RoomEvent | None) -> None:
        if room is not None:
            self._wakeup.wake_among(room.joined)
        elif entry.kind is Kind.DEVICE_LIST:
            if is_news(entry) and entry.key is not None:
                self._devices_of(entry.key)
        else:
            self._wakeup.wake_among(self._served_members.of(entry.stream))
        if entry.type == "m.room.member" and entry.key is not None:
            self._served_members.changed(entry.key, entry.stream)
            self._wakeup.wake_user(entry.key)

    def _devices_of(self, user_id: str) -> None:
        user = self._users.cached(user_id)
        if user is not None:
            for room_id in user.rooms("join"):
                self.room(room_id)
            self._wakeup.wake_user(user_id)
        else:
            self._wakeup.wake_where(lambda other: self._may_share_room(other, user_id))

    def _may_share_room(self, user_id: str, other: str) -> bool:
        user = self._users.cached(user_id)
        rooms = (self._rooms.cached(room_id) for room_id in user.rooms("join")) if user is not None else ()
        return user is None or any(room is not None and other in room.joined for room in rooms)

    def on_user_entry(self, entry: Entry) -> None:
        if entry.type == SESSIONS_CHANGED:
            self._wakeup.end_user(entry.stream)
        else:
            self._wakeup.wake_user(entry.stream)
