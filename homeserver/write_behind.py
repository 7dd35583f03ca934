"""Records that nobody waits for: noted in memory, written together every few seconds.

A crash loses the last seconds of them. What cannot be written stays noted.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from storage.collection import Collection, Record
from storage.errors import StoreError

log = structlog.get_logger(__name__)

WRITE_EVERY_SECONDS = 10.0

T = TypeVar("T", bound=Record)
Key = tuple[str, str]


class WriteBehind(Generic[T]):
    """The newest record noted under each key takes the place of the stored one."""

    def __init__(self, records: Collection[T]) -> None:
        self._records = records
        self.noted: dict[Key, T] = {}
        """What is not written yet."""
        self._writing = asyncio.Lock()

    async def delete(self, chosen: Callable[[Key], bool], stored: Callable[[], Awaitable[object]]) -> None:
        """Drop what was noted under the chosen keys, then have `stored` delete what is stored."""
        async with self._writing:
            for key in [key for key in self.noted if chosen(key)]:
                del self.noted[key]
            await stored()

    async def write(self) -> None:
        """Store what was noted. Raises StoreError."""
        async with self._writing:
            noted = dict(self.noted)
            if not noted:
                return
            await self._records.put_many(list(noted.values()))
            for key, record in noted.items():
                if self.noted.get(key) is record:
                    del self.noted[key]

    async def keep_writing(self, warning: str) -> None:
        """Write every few seconds, until cancelled; `warning` is logged when it cannot be done."""
        while True:
            await asyncio.sleep(WRITE_EVERY_SECONDS)
            try:
                await self.write()
            except StoreError as error:
                log.warning(warning, error=str(error))
