"""Aliases and the public directory (spec: client-server "Room aliases", "Published rooms")."""

from functools import partial
from typing import Literal

import msgspec

from client_api.http import Auth, Call, delete, get, post, put
from homeserver.errors import MatrixError, forbidden
from homeserver.rooms.access import RoomAccess
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.directory import Directory
from homeserver.rooms.foreign_rooms import ForeignRooms
from rest import public_rooms
from rest.answers import Result
from rest.public_rooms import Page
from rest.routes import Routes


class AliasBody(msgspec.Struct):
    room_id: str


class VisibilityBody(msgspec.Struct):
    visibility: Literal["public", "private"] = "public"


class AliasRoutes(Routes):
    def __init__(self, aliases: Aliases, access: RoomAccess) -> None:
        self._aliases = aliases
        self._access = access

    @get("/directory/room/{alias}", auth=Auth.NONE)
    async def resolve(self, call: Call) -> Result:
        located = await self._aliases.find(call.path("alias"))
        return {"room_id": located.room_id, "servers": located.servers}

    @put("/directory/room/{alias}")
    async def create(self, call: Call) -> Result:
        await self._aliases.create(
            call.path("alias"),
            call.json(AliasBody).room_id,
            call.user_id,
            as_admin=call.session.account.is_admin,
        )
        return {}

    @delete("/directory/room/{alias}")
    async def remove(self, call: Call) -> Result:
        await self._aliases.delete(call.path("alias"), call.user_id, as_admin=call.session.account.is_admin)
        return {}

    @get(
        "/rooms/{room_id}/aliases",
        "/_matrix/client/unstable/org.matrix.msc2432/rooms/{room_id}/aliases",
        limit="request",
    )
    async def of_room(self, call: Call) -> Result:
        room = (await self._access.of(call.path("room_id"), call.user_id)).room
        if call.user_id not in room.joined and room.history_visibility != "world_readable":
            raise forbidden("You are not in this room")
        return {"aliases": await self._aliases.of_room(room.room_id)}


class DirectoryRoutes(Routes):
    def __init__(
        self, directory: Directory, foreign: ForeignRooms, server_name: str, *, without_login: bool
    ) -> None:
        self._directory = directory
        self._foreign = foreign
        self._server_name = server_name
        self._without_login = without_login

    @get("/directory/list/room/{room_id}", auth=Auth.NONE)
    async def visibility(self, call: Call) -> Result:
        published = await self._directory.is_published(call.path("room_id"))
        return {"visibility": "public" if published else "private"}

    @put("/directory/list/room/{room_id}")
    async def set_visibility(self, call: Call) -> Result:
        await self._directory.set_published(
            call.path("room_id"),
            call.user_id,
            call.json(VisibilityBody).visibility == "public",
            is_admin=call.session.account.is_admin,
        )
        return {}

    @get("/publicRooms", auth=Auth.OPTIONAL, limit="search")
    async def public_rooms(self, call: Call) -> Result:
        return await public_rooms.listed(self._page(call), call)

    @post("/publicRooms", auth=Auth.GUEST, limit="search")
    async def search(self, call: Call) -> Result:
        return await public_rooms.found(self._page(call), call)

    def _page(self, call: Call) -> Page:
        """What reads the directory of the server that is asked for. Raises 401."""
        server = call.query("server")
        is_own = server is None or server == self._server_name
        if call.optional_session is None and not (is_own and self._without_login):
            raise MatrixError(401, "M_MISSING_TOKEN", "Log in to see the room directory")
        if server is None or is_own:
            return self._directory.page
        return partial(self._foreign.directory, server)
