"""When and from where each device was last here.

Noted at most once a minute for each session, and written together every few seconds: a request never
waits for it. A crash loses the last seconds of it, which nobody needs.
"""

import asyncio

import structlog

from storage.collection import Collection
from storage.errors import StoreError
from storage.records.accounts import DeviceSeen

log = structlog.get_logger(__name__)

WRITE_EVERY_SECONDS = 10.0
MAX_USER_AGENT = 200


class LastSeen:
    def __init__(self, records: Collection[DeviceSeen]) -> None:
        self._records = records
        self._unwritten: dict[tuple[str, str], DeviceSeen] = {}
        self._writing = asyncio.Lock()

    def note(self, user_id: str, device_id: str, ts: int, address: str, user_agent: str) -> None:
        self._unwritten[user_id, device_id] = DeviceSeen(
            user_id=user_id,
            device_id=device_id,
            ts=ts,
            address=address,
            user_agent=user_agent[:MAX_USER_AGENT],
        )

    async def of_user(self, user_id: str) -> dict[str, DeviceSeen]:
        """By device id; devices that were never here since they were made are missing."""
        seen = {record.device_id: record for record in await self._records.find("key", (user_id,))}
        seen.update({d: record for (u, d), record in self._unwritten.items() if u == user_id})
        return seen

    async def forget(self, user_id: str, device_id: str) -> None:
        """The device is gone."""
        async with self._writing:
            self._unwritten.pop((user_id, device_id), None)
            await self._records.delete(user_id, device_id)

    def drop(self, user_id: str, device_id: str) -> None:
        """Write nothing of what was noted of late: another replica may have ended the device."""
        self._unwritten.pop((user_id, device_id), None)

    async def write(self) -> None:
        """Store what was noted."""
        async with self._writing:
            unwritten, self._unwritten = self._unwritten, {}
            if unwritten:
                await self._records.put_many(list(unwritten.values()))

    async def keep_writing(self) -> None:
        """Write every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY_SECONDS)
            try:
                await self.write()
            except StoreError as error:
                log.warning("when devices were last seen is not written", error=str(error))
