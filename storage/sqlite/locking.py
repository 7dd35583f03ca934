"""One process at a time writes a store: it holds a lock on a file beside it, which dies with it."""

import fcntl
import os
from pathlib import Path

from storage.errors import StoreRefused


class StoreLock:
    """Held from the moment it is made until `release`. Raises StoreRefused when another one holds it."""

    def __init__(self, store: Path) -> None:
        self._fd = os.open(f"{store}-lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise StoreRefused(
                f"Another process has {store} open: stop it first (several replicas need MongoDB for a store)"
            ) from None

    def release(self) -> None:
        os.close(self._fd)
