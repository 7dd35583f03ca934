"""Other servers as administrators see them: who answers, since when one does not, and what waits for it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class DestinationState(NamedTuple):
    """Times in ms since 1970, 0: none."""

    server_name: str
    failing_since: int
    retry_at: int
    """When it is tried again."""
    pause_ms: int
    last_success: int
    """When it took something last, since this replica was started."""
    waiting: int
    """Things that this replica has in memory for it."""
    lag: int
    """Entries of the log that it may have missed."""


class Destinations(Protocol):
    def known(self) -> Sequence[DestinationState]:
        """Those that something was to be sent to since the start, or that do not answer."""
        ...

    async def all(self, *, after: str, limit: int) -> list[DestinationState]:
        """All that are in rooms with users of this server, or `known`, by name. Raises StoreError."""
        ...

    async def count(self) -> int:
        """How many those are, on all pages. Raises StoreError."""
        ...

    async def get(self, server_name: str) -> DestinationState:
        """Raises MatrixError 404, StoreError."""
        ...

    async def rooms(self, server_name: str, *, after: str, limit: int) -> list[str]:
        """Rooms in which the server has users, by id. Raises StoreError."""
        ...

    async def count_rooms(self, server_name: str) -> int:
        """How many those are. Raises StoreError."""
        ...

    def retry(self, server_name: str) -> None:
        """Try it now, however long it has not answered."""
        ...
