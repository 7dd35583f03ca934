"""Aliases of rooms (spec: client-server "Room aliases")."""

from homeserver.errors import MatrixError, bad_json, forbidden, invalid_param, not_found
from homeserver.protocol.identifiers import InvalidIdentifier, check_room_alias, check_room_id, server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.redaction import power_levels
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from storage.collection import Collection
from storage.errors import AlreadyExists
from storage.records.rooms import RoomAlias

MAX_ALIASES_PER_ROOM = 200


class Aliases:
    """The aliases of this server."""

    def __init__(self, aliases: Collection[RoomAlias], rooms: Rooms, *, server_name: str) -> None:
        self._aliases = aliases
        self._rooms = rooms
        self._server_name = server_name

    def full(self, localpart: str) -> str:
        """The alias of a localpart. Raises 400 M_INVALID_PARAM."""
        try:
            if ":" in localpart or localpart.startswith("#"):
                raise InvalidIdentifier("an alias' localpart has neither # nor :")
            return check_room_alias(f"#{localpart}:{self._server_name}")
        except InvalidIdentifier as error:
            raise invalid_param(f"room_alias_name: {error}") from error

    async def room_id(self, room_id_or_alias: str) -> str:
        """A room id as it is, an alias resolved. Raises 404."""
        if room_id_or_alias.startswith("!"):
            return check_room_id(room_id_or_alias)
        return (await self.resolve(room_id_or_alias)).room_id

    async def resolve(self, alias: str) -> RoomAlias:
        """Raises 404 for an alias that nobody made, 400 for what is none."""
        check_room_alias(alias)
        record = await self._aliases.get(alias)
        if record is None:
            raise not_found("There is no such room alias")
        return record

    async def is_free(self, alias: str) -> bool:
        return await self._aliases.get(alias) is None

    async def of_room(self, room_id: str) -> list[str]:
        return [record.alias for record in await self._aliases.find("by_room", (room_id,))]

    async def create(self, alias: str, room_id: str, creator: str) -> None:
        """Raises 409 M_UNKNOWN when it exists, 400 for another server's, 404 for an unknown room."""
        check_room_alias(alias)
        if server_name_of(alias) != self._server_name:
            raise invalid_param("The alias must be of this server")
        if await self._rooms.get(room_id) is None:
            raise not_found("This server does not know the room")
        if await self._aliases.count("by_room", (room_id,)) >= MAX_ALIASES_PER_ROOM:
            raise forbidden("The room has too many aliases")
        try:
            await self._aliases.insert(RoomAlias(alias=alias, room_id=room_id, creator=creator))
        except AlreadyExists as error:
            raise MatrixError(409, "M_UNKNOWN", "The alias exists already") from error

    async def delete(self, alias: str, user_id: str, *, as_admin: bool = False) -> None:
        """By its creator, an admin, or who may set the room's canonical alias. Raises 403, 404."""
        record = await self.resolve(alias)
        if record.creator != user_id and not as_admin:
            room = await self._rooms.get(record.room_id)
            if room is None or user_id not in room.joined:
                raise forbidden("You may not delete this alias")
            levels = power_levels(room.version, room.head.lookup)
            if levels.user_level(user_id) < levels.event_level("m.room.canonical_alias", is_state=True):
                raise forbidden("You may not delete this alias")
        await self._aliases.delete(alias)

    async def check_canonical(self, room: Room, content: JsonObject) -> None:
        """New aliases of an `m.room.canonical_alias` must point to the room.

        Raises 400 M_BAD_ALIAS for one that does not, M_INVALID_PARAM for what is no alias.
        """
        known = _aliases_in(room.state_content("m.room.canonical_alias"))
        for alias in _aliases_in(content) - known:
            try:
                check_room_alias(alias)
            except InvalidIdentifier as error:
                raise invalid_param(str(error)) from error
            record = await self._aliases.get(alias)
            if record is None or record.room_id != room.room_id:
                raise MatrixError(400, "M_BAD_ALIAS", f"{alias} does not point to this room")

    async def move(self, old_room: str, new_room: str) -> None:
        """Point the aliases of an upgraded room to its successor."""
        for record in await self._aliases.find("by_room", (old_room,)):
            await self._aliases.put(RoomAlias(alias=record.alias, room_id=new_room, creator=record.creator))


def _aliases_in(content: JsonObject) -> set[str]:
    """The aliases that an `m.room.canonical_alias` names. Raises 400 M_BAD_JSON for other types."""
    alternatives = content.get("alt_aliases") or []
    names = [content["alias"]] if content.get("alias") else []
    if not isinstance(alternatives, list) or not all(isinstance(n, str) for n in (*names, *alternatives)):
        raise bad_json("m.room.canonical_alias: aliases must be strings")
    return {*names, *alternatives}
