"""Rooms as other servers describe them: what is believed of that, and handed on to clients.

Strangers say what they like: only fields that the specification knows pass, and only as it has them.

spec: client-server "Published rooms", "Spaces", server-server "Spaces", "Published Room Directory"
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Protocol

import msgspec

from homeserver.errors import not_found
from homeserver.protocol.identifiers import InvalidIdentifier, check_room_id
from homeserver.protocol.json_types import JsonObject

MAX_CHILDREN = 1000
Text = Annotated[str, msgspec.Meta(max_length=10_000)]
Name = Annotated[str, msgspec.Meta(max_length=255)]


class Child(msgspec.Struct):
    """An `m.space.child` event as stripped state."""

    type: Name
    state_key: Name
    content: dict[str, Any]
    sender: Name
    origin_server_ts: int = 0

    def shown(self) -> JsonObject:
        shown: JsonObject = msgspec.to_builtins(self)
        return shown


class Description(msgspec.Struct, omit_defaults=True):
    """What somebody says of a room."""

    room_id: Name
    num_joined_members: Annotated[int, msgspec.Meta(ge=0)]
    world_readable: bool
    guest_can_join: bool
    name: Text | None = None
    topic: Text | None = None
    avatar_url: Annotated[str, msgspec.Meta(pattern="^mxc://", max_length=1000)] | None = None
    canonical_alias: Annotated[str, msgspec.Meta(pattern="^#", max_length=255)] | None = None
    join_rule: Name | None = None
    room_type: Name | None = None
    room_version: Name | None = None
    encryption: Name | None = None
    allowed_room_ids: list[Name] | None = None

    @property
    def is_space(self) -> bool:
        return self.room_type == "m.space"

    def shown(self) -> JsonObject:
        shown: JsonObject = msgspec.to_builtins(self)
        return shown


class ForeignRoom(NamedTuple):
    """A room and those of its children of which the other server knows."""

    description: Description
    children: Sequence[Child]
    """In the order that the other server gives."""
    known: dict[str, Description]
    hidden: frozenset[str]
    """Children that nobody of this server may see."""


class Wanted(NamedTuple):
    """The page of a directory that somebody asks for."""

    search: str | None = None
    room_types: Sequence[str | None] | None = None
    """None in it: rooms without a type."""
    limit: int | None = None
    since: str | None = None
    network: str | None = None
    """The rooms of this third-party network alone, instead of those of none."""
    all_networks: bool = False


class ForeignRooms(Protocol):
    """Asks other servers about rooms. Every method bounds its time."""

    async def directory(self, server: str, wanted: Wanted) -> JsonObject:
        """A page of a server's directory, as `Directory.page` has it. Raises 403, 404, 502."""
        ...

    async def room(self, room_id: str, via: Sequence[str], *, suggested_only: bool) -> ForeignRoom | None:
        """A room by way of some servers; None if none of them tells of it."""
        ...


class NoForeignRooms:
    """Of a server that has nothing to do with others."""

    async def directory(self, server: str, wanted: Wanted) -> JsonObject:
        raise not_found(f"Cannot reach the room directory of {server}")

    async def room(self, room_id: str, via: Sequence[str], *, suggested_only: bool) -> ForeignRoom | None:
        return None


def read_description(said: object) -> Description | None:
    """What is believed of a room's description; None if that is nothing."""
    try:
        found = msgspec.convert(said, Description)
        check_room_id(found.room_id)
    except (msgspec.ValidationError, InvalidIdentifier):
        return None
    return found


def read_foreign_room(said: JsonObject, room_id: str) -> ForeignRoom | None:
    """An answer about the room of that id (GET /hierarchy)."""
    room = said.get("room")
    description = read_description(room)
    if not isinstance(room, dict) or description is None or description.room_id != room_id:
        return None
    described = [read_description(child) for child in _list(said.get("children"))]
    hidden = [child for child in _list(said.get("inaccessible_children")) if isinstance(child, str)]
    return ForeignRoom(
        description,
        [child for each in _list(room.get("children_state")) if (child := _child(each)) is not None],
        {child.room_id: child for child in described if child is not None},
        frozenset(hidden),
    )


def _list(said: object) -> list[Any]:
    return said[:MAX_CHILDREN] if isinstance(said, list) else []


def _child(said: object) -> Child | None:
    try:
        child = msgspec.convert(said, Child)
    except msgspec.ValidationError:
        return None
    return child if child.type == "m.space.child" and isinstance(child.content.get("via"), list) else None
