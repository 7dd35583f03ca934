"""Which servers have users in which rooms, so that a server's rooms are found without looking at all."""

from homeserver.protocol.identifiers import server_of_member
from homeserver.rooms.rooms import Rooms
from storage.collection import Collection
from storage.log import Entry, Kind
from storage.records.destinations import ServerRoom


class ServerRooms:
    """The handler behind the consumer "server_rooms"."""

    def __init__(self, server_name: str, rooms: Rooms, stored: Collection[ServerRoom]) -> None:
        self._server_name = server_name
        self._rooms = rooms
        self._stored = stored

    def wants(self, entry: Entry) -> bool:
        is_state = entry.kind in (Kind.EVENT, Kind.STATE) and entry.key is not None
        return is_state and entry.type == "m.room.member"

    async def handle(self, shard: int, entry: Entry) -> None:
        server = server_of_member(entry.key or "")
        if server is None or server == self._server_name:
            return
        room = await self._rooms.get(entry.stream)
        known = await self._stored.get(server, entry.stream)
        if room is not None and server in room.servers:
            if known is None:
                await self._stored.put(ServerRoom(server_name=server, room_id=entry.stream))
        elif known is not None:
            await self._stored.delete(server, entry.stream)
