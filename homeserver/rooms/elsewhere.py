"""What a room needs other servers for: those of rooms that this one is not in, and those of users invited.

A port: what is here is for a server without others.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from homeserver.errors import forbidden, not_found
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.authoring import EventTemplate
from homeserver.rooms.room import Room


class Located(NamedTuple):
    """A room, and servers that may be in it."""

    room_id: str
    servers: Sequence[str]


class Elsewhere(Protocol):
    """Does by way of other servers what cannot be done here alone.

    All methods raise MatrixError: what another server says against it, and 502 when none answers.
    """

    async def locate(self, alias: str) -> Located:
        """The room of another server's alias. Raises 404."""
        ...

    async def join(self, room_id: str, user_id: str, content: JsonObject, via: Sequence[str]) -> str | None:
        """Join a room that this server is not in; the id of the member event.

        None if the room has come here meanwhile: it can be joined like any other.
        """
        ...

    async def join_authorised(self, room: Room, user_id: str, content: JsonObject) -> str:
        """Join a room that this server is in, but cannot let the user into; the id of the member event."""
        ...

    async def knock(self, room_id: str, user_id: str, content: JsonObject, via: Sequence[str]) -> str:
        """Knock on a room that this server is not in; the id of the member event."""
        ...

    async def leave(self, room: Room, user_id: str, content: JsonObject) -> str:
        """Reject an invite to a room that this server is not in, or take back a knock.

        The user is rid of it whatever others say. The id of the member event.
        """
        ...

    async def invite(self, room: Room, template: EventTemplate) -> str:
        """Invite a user of another server, which has to agree; the id of the member event."""
        ...

    async def claim(self, room_id: str, inviter: str, user_id: str, signed: JsonObject) -> None:
        """Have the inviter's server invite somebody who is vouched for into a room this server is not in."""
        ...


class Nowhere:
    """No other servers."""

    async def locate(self, alias: str) -> Located:
        raise not_found("There is no such room alias")

    async def join(self, room_id: str, user_id: str, content: JsonObject, via: Sequence[str]) -> str | None:
        raise not_found("This server does not know the room")

    async def join_authorised(self, room: Room, user_id: str, content: JsonObject) -> str:
        raise forbidden("Nobody here may let you in")

    async def knock(self, room_id: str, user_id: str, content: JsonObject, via: Sequence[str]) -> str:
        raise not_found("This server does not know the room")

    async def leave(self, room: Room, user_id: str, content: JsonObject) -> str:
        raise not_found("This server does not know the room")

    async def invite(self, room: Room, template: EventTemplate) -> str:
        raise forbidden("This server has nothing to do with the user's")

    async def claim(self, room_id: str, inviter: str, user_id: str, signed: JsonObject) -> None:
        raise not_found("This server does not know the room")
