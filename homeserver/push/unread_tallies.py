"""Unread counts that are dear to make anew, kept in the store (see `homeserver.push.unread`).

Written together every few seconds: no poll waits for it. After a crash counts go on from older ones.
"""

from homeserver.write_behind import WriteBehind
from storage.collection import Collection
from storage.records.push import UnreadTally


class UnreadTallies:
    def __init__(self, records: Collection[UnreadTally]) -> None:
        self._records = records
        self._behind = WriteBehind(records)

    def note(self, tally: UnreadTally) -> None:
        """It takes the place of what is stored for this user and room."""
        self._behind.noted[tally.user_id, tally.room_id] = tally

    async def get(self, user_id: str, room_id: str) -> UnreadTally | None:
        """The newest one that was noted."""
        noted = self._behind.noted.get((user_id, room_id))
        return noted or await self._records.get(user_id, room_id)

    async def forget_user(self, user_id: str, erase: bool) -> None:
        """The account has been closed."""
        await self._behind.delete(
            lambda key: key[0] == user_id, lambda: self._records.delete_where("key", (user_id,))
        )

    async def write(self) -> None:
        """Store what was noted."""
        await self._behind.write()

    async def keep_writing(self) -> None:
        """Write every few seconds, until cancelled."""
        await self._behind.keep_writing("unread counts are not written")
