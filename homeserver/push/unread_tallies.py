"""Unread counts that are dear to make anew, kept in the store (see `homeserver.push.unread`).

Written together every few seconds: no poll waits for it. After a crash counts go on from older ones.
"""

import asyncio

import structlog

from storage.collection import Collection
from storage.errors import StoreError
from storage.records.push import UnreadTally

log = structlog.get_logger(__name__)

WRITE_EVERY_SECONDS = 10.0


class UnreadTallies:
    def __init__(self, records: Collection[UnreadTally]) -> None:
        self._records = records
        self._unwritten: dict[tuple[str, str], UnreadTally] = {}
        self._writing = asyncio.Lock()

    def note(self, tally: UnreadTally) -> None:
        """It takes the place of what is stored for this user and room."""
        self._unwritten[tally.user_id, tally.room_id] = tally

    async def get(self, user_id: str, room_id: str) -> UnreadTally | None:
        """The newest one that was noted."""
        unwritten = self._unwritten.get((user_id, room_id))
        return unwritten or await self._records.get(user_id, room_id)

    async def forget_user(self, user_id: str, erase: bool) -> None:
        """The account has been closed."""
        async with self._writing:
            for key in [key for key in self._unwritten if key[0] == user_id]:
                del self._unwritten[key]
            await self._records.delete_where("key", (user_id,))

    async def write(self) -> None:
        """Store what was noted."""
        async with self._writing:
            unwritten = dict(self._unwritten)
            if not unwritten:
                return
            await self._records.put_many(list(unwritten.values()))
            for key, tally in unwritten.items():
                if self._unwritten.get(key) is tally:
                    del self._unwritten[key]

    async def keep_writing(self) -> None:
        """Write every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY_SECONDS)
            try:
                await self.write()
            except StoreError as error:
                log.warning("unread counts are not written", error=str(error))
