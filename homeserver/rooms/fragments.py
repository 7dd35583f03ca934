"""What was worked out of a room as it is now, once for all who ask: JSON that many syncs share, what is
unread, members by server."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

MAX_BYTES = 64 * 1024 * 1024
"""Of one room: readers choose which slices of it they want."""
PIECE_BYTES = 500
"""What each takes beside its size."""


class Fragments:
    """The pieces of one room, by keys that begin with their purpose; every change of the room empties it."""

    __slots__ = ("_kept", "grown", "size")

    def __init__(self) -> None:
        self._kept: dict[object, object] = {}
        self.size = 0
        """Bytes of memory, roughly; for the budget."""
        self.grown: Callable[[int], None] = _nobody_counts
        """Told of the bytes of each piece."""

    def get(self, key: object, type: type[T]) -> T | None:
        """The piece under a key, None if there is none of this type."""
        kept = self._kept.get(key)
        return kept if isinstance(kept, type) else None

    def keep(self, key: object, piece: T, size: int = 0) -> T:
        """Keep a piece of so many bytes, roughly; it is given back."""
        size += PIECE_BYTES
        if self.size + size > MAX_BYTES:
            self.clear()
        self._kept[key] = piece
        self.size += size
        self.grown(size)
        return piece

    def clear(self) -> None:
        if self.size:
            self._kept.clear()
            self.size = 0


def _nobody_counts(size: int) -> None:
    pass
