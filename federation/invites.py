"""Being invited by other servers (spec: server-server "Inviting to a room")."""

from typing import Any

import msgspec
import orjson

from federation.http import Call, put
from federation.received_invites import ReceivedInvites
from homeserver.protocol.json_types import JsonObject
from rest.answers import Result
from rest.routes import Routes

OLDEST_VERSION = "1"
"""The room version of invites that do not say it; the format is that of version 2 as well."""


class Invite(msgspec.Struct):
    room_version: str
    event: JsonObject
    invite_room_state: list[Any] = []


class InviteRoutes(Routes):
    def __init__(self, received: ReceivedInvites) -> None:
        self._received = received

    @put("/_matrix/federation/v2/invite/{room_id}/{event_id}")
    async def invite(self, call: Call) -> Result:
        invite = call.json(Invite)
        return {"event": await self._take(call, invite.room_version, invite.event, invite.invite_room_state)}

    @put("/_matrix/federation/v1/invite/{room_id}/{event_id}")
    async def invite_v1(self, call: Call) -> Result:
        event = call.content()
        unsigned = event.get("unsigned")
        told = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
        signed = await self._take(call, OLDEST_VERSION, event, told if isinstance(told, list) else [])
        return orjson.dumps([200, {"event": signed}])

    async def _take(self, call: Call, room_version: str, event: JsonObject, told: list[Any]) -> JsonObject:
        return await self._received.take(
            call.origin, call.path("room_id"), call.path("event_id"), room_version, event, told
        )
