"""What may be said of a room to those who might join it (spec: client-server "Room summary",
"Published rooms", "Spaces")."""

from collections.abc import Sequence
from typing import Any

from homeserver.errors import not_found
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.foreign_rooms import Description, ForeignRooms
from homeserver.rooms.restricted import RestrictedJoins, allowed_rooms
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import has_user_of, server_acl, takes_part
from storage.records.rooms import PublishedRoom

KNOCKABLE = ("knock", "knock_restricted")
RESTRICTED = ("restricted", "knock_restricted")


def published_of(room: Room) -> PublishedRoom:
    """A room's face as the directory keeps it."""
    guests = room.state_content("m.room.guest_access").get("guest_access")
    return PublishedRoom(
        room_id=room.room_id,
        members=len(room.joined),
        name=_text(room, "m.room.name", "name"),
        topic=_text(room, "m.room.topic", "topic"),
        avatar_url=_text(room, "m.room.avatar", "url"),
        canonical_alias=_text(room, "m.room.canonical_alias", "alias"),
        join_rule=room.join_rule,
        room_type=_text(room, "m.room.create", "type"),
        world_readable=room.history_visibility == "world_readable",
        guest_can_join=guests == "can_join",
    )


def chunk_of(published: PublishedRoom) -> JsonObject:
    """The PublishedRoomsChunk of a directory entry; what is not known is left out."""
    shown: JsonObject = {
        "room_id": published.room_id,
        "num_joined_members": published.members,
        "world_readable": published.world_readable,
        "guest_can_join": published.guest_can_join,
    }
    optional = ("name", "topic", "avatar_url", "canonical_alias", "join_rule", "room_type")
    shown.update({key: value for key in optional if (value := getattr(published, key)) is not None})
    return shown


def summary_of(room: Room) -> JsonObject:
    """The RoomSummary: the directory's chunk, and what newer clients ask for beside it."""
    summary = chunk_of(published_of(room))
    summary["room_version"] = room.version.identifier
    algorithm = room.state_content("m.room.encryption").get("algorithm")
    if isinstance(algorithm, str):
        summary["encryption"] = algorithm
    if room.join_rule in RESTRICTED:
        summary["allowed_room_ids"] = allowed_rooms(room)
    return summary


def _text(room: Room, type: str, key: str) -> str | None:
    value: Any = room.state_content(type).get(key)
    return value if isinstance(value, str) and value else None


class Summaries:
    """Summaries for those who may have them."""

    def __init__(
        self,
        rooms: Rooms,
        aliases: Aliases,
        restricted: RestrictedJoins,
        foreign: ForeignRooms,
        server_name: str,
    ) -> None:
        self._rooms = rooms
        self._aliases = aliases
        self._restricted = restricted
        self._server_name = server_name
        self._foreign = foreign

    async def may_see(self, room: Room, user_id: str | None) -> bool:
        """Members, those who may join or knock, and anyone for a world-readable room."""
        if room.history_visibility == "world_readable" or room.join_rule in ("public", *KNOCKABLE):
            return user_id is None or room.membership_of(user_id) != "ban"
        if user_id is None:
            return False
        if room.membership_of(user_id) in ("join", "invite"):
            return True
        return room.join_rule in RESTRICTED and await self._restricted.in_allowed_room(room, user_id)

    async def may_see_foreign(self, described: Description, user_id: str | None) -> bool:
        """The same for a room that this server is not in, by what another one says of it."""
        if described.world_readable or described.join_rule in (None, "public", *KNOCKABLE):
            return True
        if user_id is None:
            return False
        room = await self._rooms.get(described.room_id)
        if room is not None and room.membership_of(user_id) == "invite":
            return True
        allowing = [await self._rooms.get(room_id) for room_id in described.allowed_room_ids or ()]
        return any(other is not None and user_id in other.joined for other in allowing)

    async def server_may_see(self, room: Room, server: str) -> bool:
        """Whether some user of another server may: the rule of `may_see`, as far as one can tell."""
        if not server_acl(room).allows(server):
            return False
        if room.history_visibility == "world_readable" or room.join_rule in ("public", *KNOCKABLE):
            return True
        if server in room.servers or has_user_of(server, room.invited):
            return True
        allowing = allowed_rooms(room) if room.join_rule in RESTRICTED else []
        others = [await self._rooms.get(room_id) for room_id in allowing]
        return any(other is not None and server in other.servers for other in others)

    async def summary(
        self, room_id_or_alias: str, user_id: str | None, via: Sequence[str] = ()
    ) -> JsonObject:
        """Raises 404 for a room that is not known or not to be seen; `via`: servers that may be in it."""
        located = await self._aliases.locate(room_id_or_alias)
        room = await self._rooms.get(located.room_id)
        if room is not None and takes_part(room, self._server_name):
            summary = summary_of(room) if await self.may_see(room, user_id) else None
        else:
            summary = await self._foreign_summary(located.room_id, user_id, [*via, *located.servers])
        if summary is None:
            raise not_found("There is no such room")
        if user_id is not None and room is not None:
            membership = room.membership_of(user_id)
            if membership is not None:
                summary["membership"] = membership
        return summary

    async def _foreign_summary(
        self, room_id: str, user_id: str | None, via: Sequence[str]
    ) -> JsonObject | None:
        if user_id is None:
            # Nobody has others asked without being known here.
            return None
        foreign = await self._foreign.room(room_id, via, suggested_only=False)
        if foreign is None or not await self.may_see_foreign(foreign.description, user_id):
            return None
        return foreign.description.shown()
