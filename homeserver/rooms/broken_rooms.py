"""One room that cannot be shown must not keep its members from all the others (HARDENING 10)."""

from math import inf
from time import monotonic
from types import TracebackType

import structlog

from homeserver.errors import MatrixError
from storage.errors import StoreUnavailable

log = structlog.get_logger(__name__)

LOGGED_EVERY_S = 600.0
MAX_LOGGED = 10_000

_logged: dict[str, float] = {}
"""When the fault of a room was logged last."""


class LeftOutIfBroken:
    """Goes on behind the block when the room in it cannot be read or shown; the log says which, and why.

    What may pass goes through: asking again shows the room, too.
    """

    # No generator: it stands around each of the thousand rooms that a user may be in, at each poll.
    __slots__ = ("_room_id",)

    def __init__(self, room_id: str) -> None:
        self._room_id = room_id

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, (MatrixError, StoreUnavailable)):
            return False
        if _is_to_be_logged(self._room_id):
            log.error(
                "a room is broken, and left out of what its members are shown",
                room_id=self._room_id,
                exc_info=error,
            )
        return True


def _is_to_be_logged(room_id: str) -> bool:
    """Now and then: each poll of each member comes upon it."""
    now = monotonic()
    if now < _logged.get(room_id, -inf) + LOGGED_EVERY_S:
        return False
    if len(_logged) >= MAX_LOGGED:
        _logged.clear()
    _logged[room_id] = now
    return True
