"""Presence (spec: client-server "Presence"). What /sync tells of it is in `homeserver.presence`."""

from typing import Literal

import msgspec

from client_api.http import Call, get, put
from homeserver.presence.presence import Presence
from homeserver.protocol.identifiers import check_user_id
from rest.answers import Result
from rest.routes import Routes


class StatusBody(msgspec.Struct):
    presence: Literal["online", "unavailable", "offline"]
    status_msg: str | None = None


class PresenceRoutes(Routes):
    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    @get("/presence/{user_id}/status")
    async def status(self, call: Call) -> Result:
        return await self._presence.status(call.user_id, check_user_id(call.path("user_id")))

    @put("/presence/{user_id}/status", limit="ephemeral", quick=True)
    async def set_status(self, call: Call) -> Result:
        call.check_own()
        body = call.json(StatusBody)
        await self._presence.set_status(call.user_id, call.session.device_id, body.presence, body.status_msg)
        return {}
