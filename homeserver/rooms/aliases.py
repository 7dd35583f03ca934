"""Aliases of rooms (spec: client-server "Room aliases")."""

from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress

from homeserver.errors import MatrixError, bad_json, forbidden, invalid_param, not_found
from homeserver.protocol.identifiers import InvalidIdentifier, check_room_alias, check_room_id, server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.authoring import Author, EventTemplate
from homeserver.rooms.elsewhere import Elsewhere, Located, Nowhere
from homeserver.rooms.posting import post
from homeserver.rooms.redaction import power_levels
from homeserver.rooms.room import Room, RoomHead
from homeserver.rooms.rooms import Rooms
from storage.collection import Collection
from storage.records.rooms import RoomAlias

CANONICAL_ALIAS = "m.room.canonical_alias"
MAX_ALIASES_PER_ROOM = 200
CLAIM_MS = 60_000
"""So long an alias is kept for a room that is being made."""


class Aliases:
    """The aliases of this server."""

    def __init__(self, aliases: Collection[RoomAlias], rooms: Rooms, author: Author) -> None:
        self._aliases = aliases
        self._rooms = rooms
        self._author = author
        self._server_name = author.server_name
        self.elsewhere: Elsewhere = Nowhere()

    def full(self, localpart: str) -> str:
        """The alias of a localpart. Raises 400 M_INVALID_PARAM."""
        try:
            if ":" in localpart or localpart.startswith("#"):
                raise InvalidIdentifier("an alias' localpart has neither # nor :")
            return check_room_alias(f"#{localpart}:{self._server_name}")
        except InvalidIdentifier as error:
            raise invalid_param(f"room_alias_name: {error}") from error

    async def locate(self, room_id_or_alias: str) -> Located:
        """A room by its id, of which no servers are known, or by an alias. Raises what `find` does."""
        if room_id_or_alias.startswith("!"):
            return Located(check_room_id(room_id_or_alias), ())
        return await self.find(room_id_or_alias)

    async def find(self, alias: str) -> Located:
        """The room of an alias, of whichever server. Raises 404, 400 for what is none, 502."""
        check_room_alias(alias)
        if server_name_of(alias) != self._server_name:
            return await self.elsewhere.locate(alias)
        return await self.find_own(alias)

    async def find_own(self, alias: str) -> Located:
        """The room of an alias of this server. Raises 404, and 400 for what is none."""
        record = await self.resolve(alias)
        room = await self._rooms.get(record.room_id)
        if room is None:
            raise not_found("The room of this alias was not made")
        others = room.servers.keys() - {self._server_name}
        return Located(record.room_id, [self._server_name, *sorted(others)])

    async def resolve(self, alias: str) -> RoomAlias:
        """Raises 404 for an alias that nobody made, 400 for what is none."""
        check_room_alias(alias)
        record = await self._aliases.get(alias)
        if record is None:
            raise not_found("There is no such room alias")
        return record

    async def of_room(self, room_id: str) -> list[str]:
        return [record.alias for record in await self._aliases.find("by_room", (room_id,))]

    async def create(self, alias: str, room_id: str, creator: str, *, as_admin: bool = False) -> None:
        """For a room that the creator is in.

        Raises 409 M_UNKNOWN when it exists, 400 for another server's, 403, 404 for an unknown room.
        """
        check_room_alias(alias)
        if server_name_of(alias) != self._server_name:
            raise invalid_param("The alias must be of this server")
        room = await self._rooms.get(room_id)
        if room is None:
            raise not_found("This server does not know the room")
        # Who they are there may have changed at another replica just now.
        await self._rooms.catch_up(room)
        if creator not in room.joined and not as_admin:
            raise forbidden("You are not in this room")
        if await self._aliases.count("by_room", (room_id,)) >= MAX_ALIASES_PER_ROOM:
            raise forbidden("The room has too many aliases")
        if not await self._take(RoomAlias(alias=alias, room_id=room_id, creator=creator)):
            raise MatrixError(409, "M_UNKNOWN", "The alias exists already")

    @asynccontextmanager
    async def claimed(self, alias: str, room_id: str, creator: str) -> AsyncIterator[None]:
        """Take an alias of this server for a room that is made meanwhile. Raises 400 M_ROOM_IN_USE."""
        now = self._author.now()
        if not await self._take(RoomAlias(alias=alias, room_id=room_id, creator=creator, claimed_ts=now)):
            raise MatrixError(400, "M_ROOM_IN_USE", "The alias exists already")
        try:
            yield
        except MatrixError:
            await self._aliases.delete(alias)
            raise

    async def _take(self, record: RoomAlias) -> bool:
        """Take an alias that is free, or was claimed for a room that did not come to be; whether it was."""
        held = await self._aliases.get(record.alias)
        if held is not None and (
            held.claimed_ts + CLAIM_MS > self._author.now() or await self._rooms.get(held.room_id) is not None
        ):
            return False
        return await self._aliases.replace_if(held, record)

    async def delete(self, alias: str, user_id: str, *, as_admin: bool = False) -> None:
        """By its creator, an admin, or who may set the room's canonical alias. Raises 403, 404.

        If that may be, the room's canonical alias ceases to name it.
        """
        record = await self.resolve(alias)
        room = await self._rooms.get(record.room_id)
        may_rename = False
        if room is not None:
            await self._rooms.catch_up(room)
        if room is not None and user_id in room.joined:
            levels = power_levels(room.version, room.head.lookup)
            needed = levels.event_level(CANONICAL_ALIAS, is_state=True)
            may_rename = levels.user_level(user_id) >= needed
        if record.creator != user_id and not as_admin and not may_rename:
            raise forbidden("You may not delete this alias")
        if room is not None and may_rename:
            await self._withdraw(room, alias, user_id)
        await self._aliases.delete(alias)

    async def _withdraw(self, room: Room, alias: str, user_id: str) -> None:
        """Take an alias out of the room's `m.room.canonical_alias`."""

        def decide(head: RoomHead) -> list[EventTemplate]:
            current = head.state.get((CANONICAL_ALIAS, ""))
            content = without_alias(current.content, alias) if current is not None else {}
            if current is None or content == current.content:
                return []
            return [EventTemplate(CANONICAL_ALIAS, user_id, content, state_key="")]

        # The alias itself goes even if the room has just changed its mind about who may rename it.
        with suppress(MatrixError):
            await post(self._rooms, self._author, room, decide)

    async def check_canonical(self, room: Room, content: JsonObject) -> None:
        """New aliases of an `m.room.canonical_alias` must point to the room.

        Raises 400 M_BAD_ALIAS for one that does not, M_INVALID_PARAM for what is no alias.
        """
        known = _aliases_in(room.state_content(CANONICAL_ALIAS))
        for alias in _named_anew(content, known):
            if not await self._points_to(alias, room.room_id):
                raise _bad_alias(alias)

    async def _points_to(self, alias: str, room_id: str) -> bool:
        try:
            return (await self.find(alias)).room_id == room_id
        except MatrixError:
            return False

    async def move(self, old_room: str, new_room: str) -> None:
        """Point the aliases of an upgraded room to its successor."""
        for record in await self._aliases.find("by_room", (old_room,)):
            await self._aliases.put(RoomAlias(alias=record.alias, room_id=new_room, creator=record.creator))


def check_first_canonical(content: JsonObject, alias: str | None) -> None:
    """In a room that is being made, `m.room.canonical_alias` names no other than the alias it is made with.

    Raises as `Aliases.check_canonical` does.
    """
    for other in _named_anew(content, {alias}):
        raise _bad_alias(other)


def without_alias(content: JsonObject, alias: str) -> JsonObject:
    """The content of an `m.room.canonical_alias` that does not name the alias."""
    kept = {key: value for key, value in content.items() if key != "alias" or value != alias}
    others = content.get("alt_aliases")
    if isinstance(others, list) and alias in others:
        kept["alt_aliases"] = [other for other in others if other != alias]
    return kept


def _named_anew(content: JsonObject, known: AbstractSet[str | None]) -> list[str]:
    """The aliases that an `m.room.canonical_alias` names beside those known. Raises 400 for what is none."""
    aliases = sorted(_aliases_in(content) - known)
    for alias in aliases:
        try:
            check_room_alias(alias)
        except InvalidIdentifier as error:
            raise invalid_param(str(error)) from error
    return aliases


def _bad_alias(alias: str) -> MatrixError:
    return MatrixError(400, "M_BAD_ALIAS", f"{alias} does not point to this room")


def _aliases_in(content: JsonObject) -> set[str]:
    """The aliases that an `m.room.canonical_alias` names. Raises 400 M_BAD_JSON for other types."""
    alternatives = content.get("alt_aliases") or []
    names = [content["alias"]] if content.get("alias") else []
    if not isinstance(alternatives, list) or not all(isinstance(n, str) for n in (*names, *alternatives)):
        raise bad_json("m.room.canonical_alias: aliases must be strings")
    return {*names, *alternatives}
