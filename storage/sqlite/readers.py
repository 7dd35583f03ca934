"""Read-only connections: one on the event loop for what takes microseconds, a few threads for the rest.

A hop to a thread and back costs more than a point read takes, and a long read on the loop would hold
up everybody: the caller says how many rows it may get, that decides.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

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
        self._asked: SimpleQueue[tuple[Callable[[Reader], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(
                target=self._serve,
                args=(Reader(path, self._names),),
                name=f"sqlite-read-{number}",
                daemon=True,
            )
            for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()
        self._pending = 0
        self._closed = False

    async def run(self, read: Callable[[Reader], T], *, rows: int) -> T:
        """What `read` returns, which is made of `rows` rows at most. Raises StoreUnavailable."""
        if self._closed:
            raise StoreUnavailable("The store is closed")
        if rows <= INLINE_ROWS:
            try:
                return read(self._inline)
            except sqlite3.Error as error:
                raise store_error(error) from error
        if self._pending >= MAX_PENDING:
            raise StoreUnavailable("Too many reads are waiting")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._pending += 1
        self._asked.put((read, future))
        return await future

    async def seldom_many(self, read: Callable[[Reader, int], list[T]], *, limit: int) -> list[T]:
        """What `read` returns within `limit` rows, where that nearly always is a few.

        Those are there before a thread has heard of it.
        """
        few = min(limit, INLINE_ROWS)
        found = await self.run(lambda reader: read(reader, few), rows=few)
        if len(found) < few or few == limit:
            return found
        return await self.run(lambda reader: read(reader, limit), rows=limit)

    async def close(self) -> None:
        """Wait for what is being read, then close the connections."""
        self._closed = True
        for _ in self._threads:
            self._asked.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._inline.db.close()

    def _settle(self, future: asyncio.Future[T], result: T | None, error: Exception | None) -> None:
        self._pending -= 1
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    # What follows runs in the threads.

    def _serve(self, reader: Reader) -> None:
        while (asked := self._asked.get()) is not None:
            read, future = asked
            result: Any = None
            error: Exception | None = None
            try:
                if not future.cancelled():
                    result = read(reader)
            except sqlite3.Error as failure:
                error = store_error(failure)
            except Exception as failure:
                error = failure
            try:
                future.get_loop().call_soon_threadsafe(self._settle, future, result, error)
            except RuntimeError:  # The loop was closed without closing the store.
                break
            del asked, read, future, result, error
        reader.db.close()
