"""Dehydrated devices (MSC3814), under the unstable prefix that clients use."""

import msgspec
import orjson

from client_api.http import Call, delete, get, post, put
from homeserver.e2ee.dehydrated import DehydratedDevices, Dehydration, Messages
from homeserver.sync.to_device import PAGE
from rest.answers import Result
from rest.routes import Routes

DEVICE = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


class EventsBody(msgspec.Struct):
    next_batch: str | None = None


class DehydratedDeviceRoutes(Routes):
    def __init__(self, dehydrated: DehydratedDevices) -> None:
        self._dehydrated = dehydrated

    @put(DEVICE)
    async def put_device(self, call: Call) -> Result:
        device = call.json(Dehydration)
        await self._dehydrated.put(call.user_id, device)
        return {"device_id": device.device_id}

    @get(DEVICE)
    async def get_device(self, call: Call) -> Result:
        device = await self._dehydrated.get(call.user_id)
        return {"device_id": device.device_id, "device_data": orjson.loads(device.device_data)}

    @delete(DEVICE)
    async def delete_device(self, call: Call) -> Result:
        return {"device_id": await self._dehydrated.delete(call.user_id)}

    @get(DEVICE + "/{device_id}/events")
    async def events(self, call: Call) -> Result:
        """The present draft: the last page has no `next_batch`."""
        page = await self._dehydrated.messages(
            call.user_id,
            call.path("device_id"),
            call.query("from"),
            call.int_query("limit", PAGE, least=1, most=PAGE),
        )
        return _page(page, page.end if page.more else None)

    @post(DEVICE + "/{device_id}/events", quick=True)
    async def events_by_post(self, call: Call) -> Result:
        """An earlier draft: a page without messages is the last one."""
        after = call.json(EventsBody).next_batch
        page = await self._dehydrated.messages(call.user_id, call.path("device_id"), after)
        return _page(page, page.end)


def _page(page: Messages, next_batch: str | None) -> bytes:
    following = b',"next_batch":"%b"' % next_batch.encode() if next_batch is not None else b""
    return b'{"events":[%b]%b}' % (b",".join(page.events), following)
