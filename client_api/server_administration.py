"""What the specification gives to administrators (spec: client-server "Server Administration")."""

import msgspec

from client_api.http import Call, get, put
from homeserver.protocol.json_types import JsonObject
from homeserver.users.devices import Devices
from homeserver.users.moderation import Moderation
from rest.answers import Result
from rest.routes import Routes

LOCK = "/_matrix/client/v1/admin/lock/{user_id}"
SUSPEND = "/_matrix/client/v1/admin/suspend/{user_id}"


class LockBody(msgspec.Struct):
    locked: bool


class SuspendBody(msgspec.Struct):
    suspended: bool


class ServerAdministrationRoutes(Routes):
    def __init__(self, moderation: Moderation, devices: Devices) -> None:
        self._moderation = moderation
        self._devices = devices

    @get(LOCK)
    async def is_locked(self, call: Call) -> Result:
        subject = await self._moderation.subject(call.session.account, call.path("user_id"))
        return {"locked": subject.locked}

    @put(LOCK)
    async def lock(self, call: Call) -> Result:
        subject = await self._moderation.subject(call.session.account, call.path("user_id"))
        locked = call.json(LockBody).locked
        await self._moderation.restrict(subject, locked=locked)
        return {"locked": locked}

    @get(SUSPEND)
    async def is_suspended(self, call: Call) -> Result:
        subject = await self._moderation.subject(call.session.account, call.path("user_id"))
        return {"suspended": subject.suspended}

    @put(SUSPEND)
    async def suspend(self, call: Call) -> Result:
        subject = await self._moderation.subject(call.session.account, call.path("user_id"))
        suspended = call.json(SuspendBody).suspended
        await self._moderation.restrict(subject, suspended=suspended)
        return {"suspended": suspended}

    @get("/admin/whois/{user_id}")
    async def whois(self, call: Call) -> Result:
        user_id = call.path("user_id")
        if user_id != call.user_id:
            await self._moderation.known_to(call.session.account, user_id)
        devices: JsonObject = {}
        for device, seen in await self._devices.of_user(user_id):
            connection: JsonObject = {}
            if seen is not None:
                connection = {"ip": seen.address, "last_seen": seen.ts, "user_agent": seen.user_agent}
            devices[device.device_id] = {"sessions": [{"connections": [connection] if connection else []}]}
        return {"user_id": user_id, "devices": devices}
