"""Which rooms two users share: what decides who may know something of whom."""

from homeserver.remembered import Remembered
from homeserver.rooms.broken_rooms import LeftOutIfBroken
from homeserver.rooms.room import Room, sets_state
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.users.users import Users, membership_in
from storage.log import Entry, Kind

CACHED = 50_000


class SharedRooms:
    """Answers for a local user and anybody else."""

    def __init__(self, rooms: Rooms, users: Users) -> None:
        self._rooms = rooms
        self._users = users
        self._elsewhere: Remembered[str, frozenset[str]] = Remembered(CACHED)
        """User of another server → the rooms in which they are joined."""
        rooms.follow(self._on_room_entry)

    async def of(self, user_id: str) -> frozenset[str]:
        """The rooms in which somebody, local or not, is joined as far as this server knows."""
        if self._users.is_local(user_id):
            return frozenset((await self._users.get(user_id)).rooms("join"))
        known = self._elsewhere.get(user_id)
        if known is not None:
            return known
        shards = self._rooms.shards.room_shards()
        with self._elsewhere.looking_up((user_id,)) as keep:
            members = await self._rooms.log.streams_keyed(shards, Kind.EVENT, "m.room.member", user_id)
            known = frozenset(
                room_id
                for room_id, entry in members.items()
                if sets_state(entry) and membership_in(entry) == "join"
            )
            keep(user_id, known)
        return known

    async def between(self, user_id: str, other: str) -> list[str]:
        """The rooms in which a local user and another are joined, in no particular order."""
        mine = (await self._users.get(user_id)).rooms("join")
        theirs = await self.of(other)
        return [room_id for room_id in mine if room_id in theirs]

    async def share(self, user_id: str, other: str) -> bool:
        """Whether one may know of the other: the same user, or in a room together."""
        return user_id == other or bool(await self.between(user_id, other))

    async def met_in(self, user_id: str) -> Room | None:
        """A room that a user of another server shares with anybody here, None if there is none."""
        for room_id in await self.of(user_id):
            with LeftOutIfBroken(room_id):
                room = await self._rooms.get(room_id)
                if room is not None and self._users.server_name in room.servers:
                    return room
        return None

    def _on_room_entry(self, shard: int, entry: Entry, room: Room | None, view: RoomEvent | None) -> None:
        if entry.type == "m.room.member" and entry.key is not None:
            self._elsewhere.forget(entry.key)
