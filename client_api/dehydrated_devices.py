"""Dehydrated devices (MSC3814), under the unstable prefix that clients use."""

import msgspec
import orjson

from client_api.http import Call, Result, Routes, delete, get, post, put
from homeserver.e2ee.dehydrated import DehydratedDevices, Dehydration

PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


class EventsBody(msgspec.Struct):
    next_batch: str | None = None


class DehydratedDeviceRoutes(Routes):
    def __init__(self, dehydrated: DehydratedDevices) -> None:
        self._dehydrated = dehydrated

    @put(PATH)
    async def put_device(self, call: Call) -> Result:
        device = call.json(Dehydration)
        await self._dehydrated.put(call.user_id, device)
        return {"device_id": device.device_id}

    @get(PATH)
    async def get_device(self, call: Call) -> Result:
        device = await self._dehydrated.get(call.user_id)
        return {"device_id": device.device_id, "device_data": orjson.loads(device.device_data)}

    @delete(PATH)
    async def delete_device(self, call: Call) -> Result:
        return {"device_id": await self._dehydrated.delete(call.user_id)}

    @post(PATH + "/{device_id}/events", quick=True)
    async def events(self, call: Call) -> Result:
        next_batch = call.json(EventsBody).next_batch
        messages, following = await self._dehydrated.messages(
            call.user_id, call.path("device_id"), next_batch
        )
        return b'{"events":[%b],"next_batch":"%b"}' % (b",".join(messages), following.encode())
