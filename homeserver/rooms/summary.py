"""What may be said of a room to those who might join it (spec: client-server "Room summary",
"Published rooms", "Spaces")."""

from typing import Any

from homeserver.errors import not_found
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.restricted import RestrictedJoins, allowed_rooms
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import has_user_of, server_acl
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

    def __init__(self, rooms: Rooms, aliases: Aliases, restricted: RestrictedJoins) -> None:
        self._rooms = rooms
        self._aliases = aliases
        self._restricted = restricted

    async def may_see(self, room: Room, user_id: str | None) -> bool:
        """Members, those who may join or knock, and anyone for a world-readable room."""
        if room.history_visibility == "world_readable" or room.join_rule in ("public", *KNOCKABLE):
            return user_id is None or room.membership_of(user_id) != "ban"
        if user_id is None:
            return False
        if room.membership_of(user_id) in ("join", "invite"):
            return True
        return room.join_rule in RESTRICTED and await self._restricted.in_allowed_room(room, user_id)

    async def server_may_see(self, room: Room, server: str) -> bool:
        """Whether some user of another server may: the rule of `may_see`, as far as one can tell."""
        if not server_acl(room).allows(server):
            return False
        if room.history_visibility == "world_readable" or room.join_rule in ("public", *KNOCKABLE):
            return True
        if has_user_of(server, room.joined) or has_user_of(server, room.invited):
            return True
        allowing = allowed_rooms(room) if room.join_rule in RESTRICTED else []
        others = [await self._rooms.get(room_id) for room_id in allowing]
        return any(other is not None and has_user_of(server, other.joined) for other in others)

    async def summary(self, room_id_or_alias: str, user_id: str | None) -> JsonObject:
        """Raises 404 for a room that is not known or not to be seen."""
        room = await self._rooms.get((await self._aliases.locate(room_id_or_alias)).room_id)
        if room is None or not await self.may_see(room, user_id):
            raise not_found("There is no such room")
        summary = summary_of(room)
        if user_id is not None:
            membership = room.membership_of(user_id)
            if membership is not None:
                summary["membership"] = membership
        return summary
