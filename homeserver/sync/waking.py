"""Whom an entry of the log wakes."""

import asyncio

import structlog

from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.sync.device_lists import is_news
from homeserver.sync.long_polls import LongPolls
from homeserver.sync.served_members import ServedMembers
from homeserver.users.sessions import SESSIONS_CHANGED
from homeserver.users.shared_rooms import SharedRooms
from homeserver.users.users import Users
from storage.errors import StoreError
from storage.log import Entry, Kind

log = structlog.get_logger(__name__)


class Waking:
    """Follows rooms and users, and wakes the polls of those who have to hear of it."""

    def __init__(
        self,
        rooms: Rooms,
        users: Users,
        long_polls: LongPolls,
        served_members: ServedMembers,
        shared_rooms: SharedRooms,
    ) -> None:
        self._rooms = rooms
        self._users = users
        self._long_polls = long_polls
        self._served_members = served_members
        self._shared_rooms = shared_rooms
        self._absent: set[str] = set()
        """Users whose rooms are to be looked up, since they are not in memory or of another server."""
        self._looking_up: asyncio.Task[None] | None = None

    def room(self, room_id: str) -> None:
        """Wake those in a room, about which there is something new."""
        room = self._rooms.cached(room_id)
        self._long_polls.wake_among(room.joined if room is not None else self._served_members.of(room_id))

    def on_room_entry(self, shard: int, entry: Entry, room: Room | None, view: RoomEvent | None) -> None:
        if room is not None:
            self._long_polls.wake_among(room.joined)
        elif entry.kind is Kind.DEVICE_LIST:
            if is_news(entry) and entry.key is not None:
                self._devices_of(entry.key)
        else:
            self._long_polls.wake_among(self._served_members.of(entry.stream))
        if entry.type == "m.room.member" and entry.key is not None:
            self._served_members.changed(entry.key, entry.stream)
            self._long_polls.wake_user(entry.key)

    def _devices_of(self, user_id: str) -> None:
        user = self._users.cached(user_id)
        if user is not None:
            for room_id in user.rooms("join"):
                self.room(room_id)
            self._long_polls.wake_user(user_id)
        else:
            self._absent.add(user_id)
            if self._looking_up is None or self._looking_up.done():
                self._looking_up = asyncio.create_task(self._devices_of_absent(), name="wake-for-devices")

    async def _devices_of_absent(self) -> None:
        while self._absent:
            user_id = self._absent.pop()
            try:
                room_ids = await self._shared_rooms.of(user_id)
            except StoreError as error:
                log.warning("polls are not woken for changed devices", user_id=user_id, error=str(error))
                continue
            for room_id in room_ids:
                self.room(room_id)
            self._long_polls.wake_user(user_id)

    async def settle(self) -> None:
        """Wait for what is being looked up (shutdown)."""
        if self._looking_up is not None:
            await asyncio.wait([self._looking_up])

    def on_user_entry(self, entry: Entry) -> None:
        if entry.type == SESSIONS_CHANGED:
            self._long_polls.end_user(entry.stream)
        else:
            self._long_polls.wake_user(entry.stream)
