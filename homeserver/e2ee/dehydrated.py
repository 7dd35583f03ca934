"""Dehydrated devices: a device that nobody runs, whose secrets lie sealed on the server (MSC3814).

It receives message keys while its owner is logged in nowhere; the next device to log in opens it and
reads them. To everybody else it is a device like any other. A user has one: a new one takes its
place, and when that is complete the old one goes. Reading its messages deletes none, so a client that
dies while it opens the device can begin again.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import orjson
from msgspec.structs import replace

from homeserver.clock import Clock
from homeserver.e2ee.device_keys import DeviceKeys, KeyUpload
from homeserver.errors import invalid_param, missing_param, not_found, too_large
from homeserver.protocol.json_types import JsonObject
from homeserver.sync.to_device import PAGE, ToDeviceQueue
from homeserver.users.users import Users
from storage.collection import Collection
from storage.records.accounts import Device
from storage.records.keys import DehydratedDevice

MAX_DEVICE_DATA_BYTES = 256 * 1024
MAX_ID_BYTES = 255
MAX_NAME = 100

OfDevice = Callable[[str, str], Awaitable[None]]
"""Called with a user id and a device id."""


class Dehydration(KeyUpload, kw_only=True):
    """A device to be dehydrated, with its keys."""

    device_id: str
    device_data: JsonObject
    initial_device_display_name: str | None = None


class Messages(NamedTuple):
    """A page of messages (event JSON), the token of its end, and whether others follow."""

    events: list[bytes]
    end: str
    more: bool


class DehydratedDevices:
    """The dehydrated devices of local users."""

    def __init__(
        self,
        dehydrated: Collection[DehydratedDevice],
        devices: Collection[Device],
        device_keys: DeviceKeys,
        queue: ToDeviceQueue,
        users: Users,
        now: Clock,
        *,
        check_device_id: OfDevice,
        end_device: OfDevice,
    ) -> None:
        self._dehydrated = dehydrated
        self._devices = devices
        self._device_keys = device_keys
        self._queue = queue
        self._users = users
        self._now = now
        self._check_device_id = check_device_id
        """Raises 403 for an id that no device may have."""
        self._end_device = end_device
        """Deletes a device with all that is its own."""

    async def put(self, user_id: str, device: Dehydration) -> None:
        """Make this the user's dehydrated device. Raises 400 and 403, nothing is changed then."""
        if not 1 <= len(device.device_id.encode()) <= MAX_ID_BYTES:
            raise invalid_param(f"device_id: 1 to {MAX_ID_BYTES} bytes")
        if device.device_keys is None:
            raise missing_param("device_keys: a dehydrated device needs them")
        device_data = orjson.dumps(device.device_data)
        if len(device_data) > MAX_DEVICE_DATA_BYTES:
            raise too_large(f"device_data may have {MAX_DEVICE_DATA_BYTES} bytes at most")
        await self._check_device_id(user_id, device.device_id)
        keys = await self._device_keys.check(user_id, device.device_id, device)
        record = await self._take_place(user_id, device.device_id, device_data.decode())
        name = device.initial_device_display_name
        made = Device(
            user_id=user_id,
            device_id=device.device_id,
            display_name=name[:MAX_NAME] if name is not None else None,
            created_ts=self._now(),
        )
        await self._devices.put(made)
        await self._device_keys.store(user_id, device.device_id, keys)
        if made.display_name is not None:
            await self._device_keys.renamed(user_id, device.device_id, made.display_name)
        for replaced in record.replaced:
            await self._end_device(user_id, replaced)
        await self._dehydrated.replace_if(record, replace(record, replaced=()))

    async def _take_place(self, user_id: str, device_id: str, device_data: str) -> DehydratedDevice:
        while True:
            present = await self._dehydrated.get(user_id)
            again = present is not None and present.device_id == device_id
            if not again and await self._devices.get(user_id, device_id) is not None:
                raise invalid_param("device_id: you have a device of this name")
            replaced = present.replaced if present is not None else ()
            if present is not None and not again:
                replaced = (*replaced, present.device_id)
            record = DehydratedDevice(
                user_id=user_id, device_id=device_id, device_data=device_data, replaced=replaced
            )
            if await self._dehydrated.replace_if(present, record):
                return record

    async def get(self, user_id: str) -> DehydratedDevice:
        """Raises 404 when there is none."""
        record = await self._dehydrated.get(user_id)
        if record is None:
            raise not_found("You have no dehydrated device")
        return record

    async def delete(self, user_id: str) -> str:
        """Delete the device; its id. Raises 404 when there is none."""
        record = await self.get(user_id)
        for device_id in (*record.replaced, record.device_id):
            await self._end_device(user_id, device_id)
        return record.device_id

    async def messages(
        self, user_id: str, device_id: str, after: str | None, limit: int = PAGE
    ) -> "Messages":
        """The messages for the device, `after` those of an earlier page.

        Raises 404 when this is not the dehydrated device, 400 for a token of something else.
        """
        if (await self.get(user_id)).device_id != device_id:
            raise not_found("This is not your dehydrated device")
        position = 0
        if after is not None:
            if not after.isascii() or not after.isdigit() or len(after) > 15:
                raise invalid_param("This token is not of this device's messages")
            position = int(after)
        user = await self._users.get(user_id)
        upto = self._users.tail(user_id)
        events, reached = await self._queue.waiting(user, device_id, position, upto, max(1, min(limit, PAGE)))
        more = reached < user.last_to_device.get(device_id, 0)
        return Messages(events, str(max(position, reached)), more)

    async def forget(self, user_id: str, device_id: str) -> None:
        """The device is going, whoever deleted it."""
        record = await self._dehydrated.get(user_id)
        if record is not None and record.device_id == device_id:
            await self._dehydrated.delete(user_id)
