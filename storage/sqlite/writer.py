"""The one thread that writes: everything that came in while it was busy becomes its next transaction.

Requests gather in a list on the event loop and are handed over once per commit, when the thread is idle
and no more of them come; it answers them with one call back. A request is answered after COMMIT has
returned, which with `synchronous=FULL` means that it is on the disk. Its caller may be gone by then: a
write that was handed in is done whatever becomes of the caller.
"""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from storage.errors import StoreError, StoreUnavailable
from storage.sqlite.appending import Append, Appender
from storage.sqlite.faults import commit_error, is_environmental, store_error

R = TypeVar("R")

MAX_PENDING = 20_000
MAX_BATCH = 512
QUIET_TURNS = 2
"""Of the loop, without another request, after which those that wait are handed over. A commit costs more than
a dozen turns; what a request makes others write, and who was answered just now, come along."""
LONGEST_GATHERING_S = 0.002
"""A busy loop has longer turns, each of which may bring another request."""
WAL_LIMIT_BYTES = 64 * 1024 * 1024
"""Above this the writer waits for readers and empties the write-ahead log."""
WAL_CHECKED_EVERY = 32
"""Commits."""

Work = Callable[[sqlite3.Connection], R]
"""A write. It raises a StoreError only before it has changed anything that must not stay."""


class Request(Generic[R]):
    """A write on its way: what to do, who waits, what came of it."""

    __slots__ = ("error", "future", "result", "work")

    def __init__(self, work: Work[R] | Append, future: asyncio.Future[R]) -> None:
        self.work = work
        self.future = future
        self.result: R | None = None
        self.error: Exception | None = None


class Writer:
    """Owns the writing connection. Must be closed, on the event loop that made it."""

    def __init__(self, db: sqlite3.Connection, path: Path, appender: Appender) -> None:
        self._db = db
        self._wal = f"{path}-wal"
        self._appender = appender
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Request[Any]] = []
        self._pending = 0
        self._busy = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._batches: SimpleQueue[list[Request[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="sqlite-write", daemon=True)
        self._thread.start()

    async def run(self, work: Work[R] | Append) -> R:
        """Do `work` in the next transaction; its result, once that is durable.

        Raises what the work raises, StoreUnavailable and OutcomeUnknown.
        """
        if self._closed:
            raise StoreUnavailable("The store is closed")
        if self._pending >= MAX_PENDING:
            raise StoreUnavailable("Too many writes are waiting")
        request: Request[R] = Request(work, self._loop.create_future())
        self._waiting.append(request)
        self._pending += 1
        if not self._busy:
            self._busy = True
            self._idle.clear()
            self._gather()
        return await request.future

    async def close(self) -> None:
        """Finish what was handed in, empty the write-ahead log, close the connection."""
        self._closed = True
        await self._idle.wait()
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join)

    def _gather(self) -> None:
        self._hand_over_when_quiet(self._loop.time() + LONGEST_GATHERING_S, 0, 0)

    def _hand_over_when_quiet(self, until: float, known: int, quiet: int) -> None:
        """When some turns have brought no more than the `known` requests, or when it is `until`."""
        waiting = len(self._waiting)
        quiet = quiet + 1 if waiting == known else 0
        if quiet > QUIET_TURNS or waiting >= MAX_BATCH or self._loop.time() >= until:
            self._hand_over()
        else:
            self._loop.call_soon(self._hand_over_when_quiet, until, waiting, quiet)

    def _hand_over(self) -> None:
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        self._batches.put(batch)

    def _settle(self, batch: list[Request[Any]]) -> None:
        self._pending -= len(batch)
        if self._waiting:
            self._gather()
        else:
            self._busy = False
            self._idle.set()
        for request in batch:
            future = request.future
            if future.done():
                continue
            if request.error is not None:
                future.set_exception(request.error)
            else:
                future.set_result(request.result)

    # What follows runs in the thread.

    def _serve(self) -> None:
        commits = 0
        while (batch := self._batches.get()) is not None:
            self._commit(batch)
            try:
                self._loop.call_soon_threadsafe(self._settle, batch)
            except RuntimeError:  # The loop was closed without closing the store.
                break
            commits += 1
            if commits % WAL_CHECKED_EVERY == 0:
                self._bound_wal()
        self._db.close()

    def _commit(self, batch: list[Request[Any]]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._do(batch)
        except Exception as error:
            self._roll_back()
            if is_environmental(error):
                _fail(batch, error)
            elif len(batch) > 1:
                # One of them is to blame: each by itself, so that only that one is told.
                for request in batch:
                    self._commit([request])
            else:
                _fail(batch, error)
            return
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            for request in batch:
                request.error = commit_error(error)

    def _do(self, batch: list[Request[Any]]) -> None:
        appends: list[Append] = []
        appending: list[Request[int]] = []
        for request in batch:
            request.error = None
            if isinstance(request.work, Append):
                # All at once at the end: their callers have no other write under way.
                appends.append(request.work)
                appending.append(request)
                continue
            try:
                request.result = request.work(self._db)
            except StoreError as error:
                request.error = error
        for request, outcome in zip(appending, self._appender.append(appends), strict=True):
            if isinstance(outcome, StoreError):
                request.error = outcome
            else:
                request.result = outcome

    def _roll_back(self) -> None:
        self._appender.forget()
        if self._db.in_transaction:
            # Should it fail, the next BEGIN does too, and it is tried again.
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def _bound_wal(self) -> None:
        try:
            if os.stat(self._wal).st_size > WAL_LIMIT_BYTES:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except (OSError, sqlite3.Error):
            return  # It is tried again after the next commit.


def _fail(batch: list[Request[Any]], error: Exception) -> None:
    for request in batch:
        request.error = store_error(error) if isinstance(error, sqlite3.Error) else error
