"""A user's devices (spec: client-server "Device Management")."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from homeserver.errors import invalid_param, not_found
from homeserver.users.last_seen import LastSeen
from homeserver.users.sessions import MAX_NAME, Sessions
from storage.collection import Collection
from storage.records.accounts import Device, DeviceSeen

OnRename = Callable[[str, str, str], Awaitable[None]]
"""Called with a user id, a device id and the new name."""


class KnownDevice(NamedTuple):
    device: Device
    seen: DeviceSeen | None


class Devices:
    def __init__(self, devices: Collection[Device], last_seen: LastSeen, sessions: Sessions) -> None:
        self._devices = devices
        self._last_seen = last_seen
        self._sessions = sessions
        self.on_rename: list[OnRename] = []

    async def of_user(self, user_id: str) -> list[KnownDevice]:
        seen = await self._last_seen.of_user(user_id)
        return [
            KnownDevice(device, seen.get(device.device_id))
            for device in await self._devices.find("key", (user_id,))
        ]

    async def get(self, user_id: str, device_id: str) -> KnownDevice:
        """Raises 404."""
        device = await self._devices.get(user_id, device_id)
        if device is None:
            raise not_found("You have no such device")
        return KnownDevice(device, (await self._last_seen.of_user(user_id)).get(device_id))

    async def rename(self, user_id: str, device_id: str, name: str) -> None:
        """Raises 404, 400 for a name that is too long."""
        if len(name) > MAX_NAME:
            raise invalid_param(f"A device's name may have {MAX_NAME} characters at most")
        while True:
            device = (await self.get(user_id, device_id)).device
            renamed = msgspec.structs.replace(device, display_name=name)
            if renamed == device or await self._devices.replace_if(device, renamed):
                break
        # Also when it had that name: an earlier attempt may have died before it was told.
        for on_rename in self.on_rename:
            await on_rename(user_id, device_id, name)

    async def delete(self, user_id: str, *device_ids: str) -> None:
        """Log devices out and delete them; those that are not there are passed over."""
        known = {device.device_id for device in await self._devices.find("key", (user_id,))}
        await self._sessions.end_device(user_id, *known.intersection(device_ids))
