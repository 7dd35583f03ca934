"""Messages waiting for a device: delivered in order, dropped once the device has acknowledged them.

A sync whose since-token is past a message acknowledges it (spec: client-server "Send-to-Device messaging").
"""

import asyncio

import structlog

from homeserver.users.users import User
from storage.errors import StoreError
from storage.log import Kind, Log

log = structlog.get_logger(__name__)

PAGE = 100
TYPE = "to_device"


class ToDeviceQueue:
    """Reads and empties the queues in the users' logs."""

    def __init__(self, log_port: Log) -> None:
        self._log = log_port
        self._cleaning: set[asyncio.Task[None]] = set()

    async def waiting(
        self, user: User, device_id: str, after: int, upto: int, limit: int = PAGE
    ) -> tuple[list[bytes], int]:
        """Messages (event JSON) with after < seq ≤ upto, and how far the answer reaches.

        It reaches to `upto` unless there are more messages than one answer holds.
        """
        if user.last_to_device.get(device_id, 0) <= after:
            return [], upto
        entries = await self._log.keyed(
            user.shard,
            user.user_id,
            kind=Kind.TO_DEVICE,
            type=TYPE,
            key=device_id,
            after=after,
            before=upto + 1,
            limit=limit,
        )
        reached = entries[-1].seq if len(entries) == limit else upto
        return [entry.body for entry in entries], reached

    def acknowledge(self, user: User, device_id: str, upto: int) -> None:
        """The device has everything up to `upto`: drop it, in the background."""
        if user.to_device_kept_from.get(device_id, 0) >= min(upto, user.last_to_device.get(device_id, 0)):
            return
        user.to_device_kept_from[device_id] = upto
        task = asyncio.create_task(self._drop(user, device_id, upto), name="drop-to-device")
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def _drop(self, user: User, device_id: str, upto: int) -> None:
        try:
            while True:
                entries = await self._log.keyed(
                    user.shard,
                    user.user_id,
                    kind=Kind.TO_DEVICE,
                    type=TYPE,
                    key=device_id,
                    before=upto + 1,
                    limit=PAGE,
                )
                if not entries:
                    return
                await self._log.remove(user.shard, [entry.seq for entry in entries])
        except StoreError as error:
            log.warning("acknowledged messages stay for now", error=str(error))

    async def settle(self) -> None:
        """Wait for what is being dropped (shutdown)."""
        if self._cleaning:
            await asyncio.wait(self._cleaning)
