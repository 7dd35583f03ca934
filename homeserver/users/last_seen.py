"""When and from where each device was last here.

Noted at most once a minute for each session, and written together every few seconds: a request never
waits for it. A crash loses the last seconds of it, which nobody needs.
"""

from homeserver.write_behind import WriteBehind
from storage.collection import Collection
from storage.records.accounts import DeviceSeen

MAX_USER_AGENT = 200


class LastSeen:
    def __init__(self, records: Collection[DeviceSeen]) -> None:
        self._records = records
        self._behind = WriteBehind(records)

    def note(self, user_id: str, device_id: str, ts: int, address: str, user_agent: str) -> None:
        self._behind.noted[user_id, device_id] = DeviceSeen(
            user_id=user_id,
            device_id=device_id,
            ts=ts,
            address=address,
            user_agent=user_agent[:MAX_USER_AGENT],
        )

    async def of_user(self, user_id: str) -> dict[str, DeviceSeen]:
        """By device id; devices that were never here since they were made are missing."""
        seen = {record.device_id: record for record in await self._records.find("key", (user_id,))}
        seen.update({d: record for (u, d), record in self._behind.noted.items() if u == user_id})
        return seen

    async def forget(self, user_id: str, device_id: str) -> None:
        """The device is gone."""
        gone = (user_id, device_id)
        await self._behind.delete(lambda key: key == gone, lambda: self._records.delete(*gone))

    def drop(self, user_id: str, device_id: str) -> None:
        """Write nothing of what was noted of late: another replica may have ended the device."""
        self._behind.noted.pop((user_id, device_id), None)

    async def write(self) -> None:
        """Store what was noted."""
        await self._behind.write()

    async def keep_writing(self) -> None:
        """Write every few seconds, until cancelled."""
        await self._behind.keep_writing("when devices were last seen is not written")
