"""Which rooms two users share: what decides who may know something of whom."""

from homeserver.rooms.room import sets_state
from homeserver.rooms.rooms import Rooms
from homeserver.users.users import Users, membership_in
from storage.log import Kind


class SharedRooms:
    """Answers for a local user and anybody else."""

    def __init__(self, rooms: Rooms, users: Users) -> None:
        self._rooms = rooms
        self._users = users

    async def of(self, user_id: str) -> list[str]:
        """The rooms in which somebody, local or not, is joined as far as this server knows."""
        if self._users.is_local(user_id):
            return (await self._users.get(user_id)).rooms("join")
        shards = self._rooms.shards.room_shards()
        members = await self._rooms.log.streams_keyed(shards, Kind.EVENT, "m.room.member", user_id)
        return [
            room_id
            for room_id, entry in members.items()
            if sets_state(entry) and membership_in(entry) == "join"
        ]

    async def between(self, user_id: str, other: str) -> list[str]:
        """The rooms in which a local user and another are joined, in no particular order."""
        mine = set((await self._users.get(user_id)).rooms("join"))
        return [room_id for room_id in await self.of(other) if room_id in mine]

    async def share(self, user_id: str, other: str) -> bool:
        """Whether one may know of the other: the same user, or in a room together."""
        return user_id == other or bool(await self.between(user_id, other))
