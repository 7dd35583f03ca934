"""Devices (spec: client-server "Device Management")."""

import msgspec

from client_api.http import Auth, Call, delete, get, post, put
from client_api.uia import InteractiveAuth
from homeserver.protocol.json_types import JsonObject
from homeserver.users.devices import Devices, KnownDevice
from rest.answers import Result
from rest.routes import Routes


class DeviceBody(msgspec.Struct):
    display_name: str | None = None


class DevicesBody(msgspec.Struct):
    devices: list[str]


class DeviceRoutes(Routes):
    def __init__(self, devices: Devices, interactive: InteractiveAuth) -> None:
        self._devices = devices
        self._interactive = interactive

    @get("/devices", auth=Auth.GUEST)
    async def devices(self, call: Call) -> Result:
        return {"devices": [shown(device) for device in await self._devices.of_user(call.user_id)]}

    @get("/devices/{device_id}", auth=Auth.GUEST)
    async def device(self, call: Call) -> Result:
        return shown(await self._devices.get(call.user_id, call.path("device_id")))

    @put("/devices/{device_id}", auth=Auth.GUEST)
    async def rename(self, call: Call) -> Result:
        body, device_id = call.json(DeviceBody), call.path("device_id")
        if body.display_name is None:
            await self._devices.get(call.user_id, device_id)
        else:
            await self._devices.rename(call.user_id, device_id, body.display_name)
        return {}

    @delete("/devices/{device_id}")
    async def delete(self, call: Call) -> Result:
        await self._interactive.confirm(call, JsonObject)
        await self._devices.delete(call.user_id, call.path("device_id"))
        return {}

    @post("/delete_devices")
    async def delete_many(self, call: Call) -> Result:
        body = await self._interactive.confirm(call, DevicesBody)
        await self._devices.delete(call.user_id, *body.devices)
        return {}


def shown(known: KnownDevice) -> JsonObject:
    """A device as its owner sees it; what is not known is left out."""
    answer: JsonObject = {"device_id": known.device.device_id}
    if known.device.display_name is not None:
        answer["display_name"] = known.device.display_name
    if known.seen is not None:
        answer["last_seen_ts"] = known.seen.ts
        if known.seen.address:
            answer["last_seen_ip"] = known.seen.address
        if known.seen.user_agent:
            answer["org.matrix.msc3852.last_seen_user_agent"] = known.seen.user_agent
    return answer
