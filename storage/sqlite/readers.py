"""Read-only connections: one on the event loop for what takes microseconds, a few threads for the rest.

A hop to a thread and back costs more than a point read takes, and a long read on the loop would hold
up everybody: the caller says how many rows it may get, that decides.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from storage.errors import StoreUnavailable
from storage.sqlite.bodies import Bodies
from storage.sqlite.faults import store_error
from storage.sqlite.names import ReadNames

T = TypeVar("T")

THREADS = 4
MAX_PENDING = 20_000
INLINE_ROWS = 16
"""Reads that can give no more rows than this are done on the event loop."""
CACHE_KIB = 8 * 1024
CACHED_STATEMENTS = 512
BUSY_TIMEOUT_S = 10.0


class Reader:
    """One read-only connection, used by one thread at a time, with what turns rows into records."""

    def __init__(self, path: Path, names: ReadNames) -> None:
        self.db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            cached_statements=CACHED_STATEMENTS,
            check_same_thread=False,
        )
        self.db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self.names = names
        self.bodies = Bodies(self.db)


class Readers:
    """Runs functions of a `Reader`. Must be closed."""

    def __init__(self, path: Path) -> None:
        self._names = ReadNames()
        self._inline = Reader(path, self._names)
        self._others = [Reader(path, self._names) for _ in range(THREADS)]
        self._free = SimpleQueue[Reader]()
        for reader in self._others:
            self._free.put(reader)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sqlite-read")
        self._pending = 0
        self._closed = False

    async def run(self, read: Callable[[Reader], T], *, rows: int) -> T:
        """What `read` returns, which is made of `rows` rows at most. Raises StoreUnavailable."""
        if self._closed:
            raise StoreUnavailable("The store is closed")
        if rows <= INLINE_ROWS:
            return self._run(read, self._inline)
        if self._pending >= MAX_PENDING:
            raise StoreUnavailable("Too many reads are waiting")
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._run_beside, read)
        finally:
            self._pending -= 1

    async def close(self) -> None:
        """Wait for what is being read, then close the connections."""
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown)
        for reader in (self._inline, *self._others):
            reader.db.close()

    def _run_beside(self, read: Callable[[Reader], T]) -> T:
        reader = self._free.get()
        try:
            return self._run(read, reader)
        finally:
            self._free.put(reader)

    @staticmethod
    def _run(read: Callable[[Reader], T], reader: Reader) -> T:
        try:
            return read(reader)
        except sqlite3.Error as error:
            raise store_error(error) from error
