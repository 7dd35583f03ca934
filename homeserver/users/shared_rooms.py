"""Which rooms two users share: what decides who may know something of whom."""

from homeserver.rooms.rooms import Rooms
from homeserver.users.users import Users
from storage.log import Kind


class SharedRooms:
    """Answers for a local user and anybody else."""

    def __init__(self, rooms: Rooms, users: Users) -> None:
        self._rooms = rooms
        self._users = users

    async def between(self, user_id: str, other: str) -> list[str]:
        """The rooms in which both are joined, in no particular order."""
        mine = set((await self._users.get(user_id)).rooms("join"))
        if self._users.is_local(other):
            return [room_id for room_id in (await self._users.get(other)).rooms("join") if room_id in mine]
        shared: list[str] = []
        for shard in self._rooms.shards.room_shards():
            memberships = await self._rooms.log.streams_keyed(shard, Kind.EVENT, "m.room.member", other)
            for room_id in memberships.keys() & mine:
                room = await self._rooms.get(room_id)
                if room is not None and other in room.joined:
                    shared.append(room_id)
        return shared

    async def share(self, user_id: str, other: str) -> bool:
        """Whether one may know of the other: the same user, or in a room together."""
        return user_id == other or bool(await self.between(user_id, other))
