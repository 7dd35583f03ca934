"""One room that cannot be shown must not keep its members from all the others (HARDENING 10)."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from homeserver.errors import MatrixError
from storage.errors import StoreUnavailable

log = structlog.get_logger(__name__)


@contextmanager
def left_out_if_broken(room_id: str) -> Iterator[None]:
    """Go on behind the block when the room in it cannot be read or shown; the log says which, and why.

    What may pass goes through: asking again shows the room, too.
    """
    try:
        yield
    except (MatrixError, StoreUnavailable):
        raise
    except Exception:
        log.exception("a room is broken, and left out of what its members are shown", room_id=room_id)
