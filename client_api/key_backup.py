"""Backups of message keys (spec: client-server "Server-side key backups")."""

from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from client_api.http import Call, delete, get, post, put
from homeserver.e2ee.key_backup import Contents, KeyBackup, SessionKey
from homeserver.errors import invalid_param
from homeserver.protocol.json_types import JsonObject
from rest.answers import Result
from rest.json_response import CORS
from rest.routes import Routes


class BackupBody(msgspec.Struct):
    algorithm: str
    auth_data: JsonObject
    version: str | None = None


class RoomBody(msgspec.Struct):
    sessions: dict[str, SessionKey]


class RoomsBody(msgspec.Struct):
    rooms: dict[str, RoomBody]


class KeyBackupRoutes(Routes):
    def __init__(self, backup: KeyBackup) -> None:
        self._backup = backup

    # Versions

    @post("/room_keys/version", limit="request")
    async def create(self, call: Call) -> Result:
        body = call.json(BackupBody)
        return {"version": await self._backup.create(call.user_id, body.algorithm, body.auth_data)}

    @get("/room_keys/version", limit="request")
    async def current(self, call: Call) -> Result:
        return await self._backup.info(call.user_id)

    @get("/room_keys/version/{version}", limit="request")
    async def info(self, call: Call) -> Result:
        return await self._backup.info(call.user_id, call.path("version"))

    @put("/room_keys/version/{version}", limit="request")
    async def update(self, call: Call) -> Result:
        body, version = call.json(BackupBody), call.path("version")
        if body.version is not None and body.version != version:
            raise invalid_param("The version in the body is not the one in the path")
        await self._backup.update(call.user_id, version, body.algorithm, body.auth_data)
        return {}

    @delete("/room_keys/version/{version}", limit="request")
    async def delete_version(self, call: Call) -> Result:
        await self._backup.delete(call.user_id, call.path("version"))
        return {}

    # Keys

    @put("/room_keys/keys/{room_id}/{session_id}", limit="request")
    async def put_key(self, call: Call) -> Result:
        key = call.json(SessionKey)
        return await self._store(call, {call.path("room_id"): {call.path("session_id"): key}})

    @put("/room_keys/keys/{room_id}", limit="request")
    async def put_room(self, call: Call) -> Result:
        return await self._store(call, {call.path("room_id"): call.json(RoomBody).sessions})

    @put("/room_keys/keys", limit="request")
    async def put_all(self, call: Call) -> Result:
        rooms = call.json(RoomsBody).rooms
        return await self._store(call, {room_id: room.sessions for room_id, room in rooms.items()})

    @get("/room_keys/keys/{room_id}/{session_id}", limit="request")
    async def get_key(self, call: Call) -> Result:
        room_id, session_id = call.path("room_id"), call.path("session_id")
        return await self._backup.key(call.user_id, _version(call), room_id, session_id)

    @get("/room_keys/keys/{room_id}", limit="request")
    async def get_room(self, call: Call) -> Result:
        return _in_pieces(await self._backup.keys(call.user_id, _version(call), call.path("room_id")))

    @get("/room_keys/keys", limit="request")
    async def get_all(self, call: Call) -> Result:
        return _in_pieces(await self._backup.keys(call.user_id, _version(call)))

    @delete("/room_keys/keys/{room_id}/{session_id}", limit="request")
    async def delete_key(self, call: Call) -> Result:
        return _contents(
            await self._backup.remove(
                call.user_id, _version(call), call.path("room_id"), call.path("session_id")
            )
        )

    @delete("/room_keys/keys/{room_id}", limit="request")
    async def delete_room(self, call: Call) -> Result:
        return _contents(await self._backup.remove(call.user_id, _version(call), call.path("room_id")))

    @delete("/room_keys/keys", limit="request")
    async def delete_all(self, call: Call) -> Result:
        return _contents(await self._backup.remove(call.user_id, _version(call)))

    async def _store(self, call: Call, keys: dict[str, dict[str, SessionKey]]) -> Result:
        return _contents(await self._backup.store(call.user_id, _version(call), keys))


def _version(call: Call) -> str:
    return call.required_query("version")


def _contents(contents: Contents) -> Result:
    return {"etag": contents.etag, "count": contents.keys}


def _in_pieces(pieces: AsyncIterator[bytes]) -> web.Response:
    """Sent as it is read: a backup may be larger than memory should hold."""
    return web.Response(body=pieces, headers=CORS, content_type="application/json")
