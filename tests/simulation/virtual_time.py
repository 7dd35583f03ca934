"""Time that passes only while nobody has anything to do, and work that threads would do, done on the spot.

What runs so takes the same course each time, as far as it does not ask the system for time or randomness.
What is left is the order of sets of strings, which PYTHONHASHSEED fixes.
"""

import asyncio
import random
import selectors
import sqlite3
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest

from homeserver.rooms import authoring
from storage.sqlite import readers, store
from storage.sqlite.appending import Appender
from storage.sqlite.writer import Writer
from tests.simulation.process import own

P = ParamSpec("P")
T = TypeVar("T")

STUCK_SECONDS = 10.0
EPOCH_MS = 1_800_000_000_000


class _Selector(selectors.DefaultSelector):
    """Where a loop would wait for a timer, the time has come."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None:
            self.now += timeout
            return super().select(0)
        # At the end of the loop's life threads are waited for, and at no other time.
        ready = super().select(STUCK_SECONDS)
        if not ready:
            raise TimeoutError("everybody waits, and nothing will ever happen")
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self.set_default_executor(_OnTheSpot())

    def time(self) -> float:
        return self._virtual.now

    def create_task(
        self, work: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = super().create_task(work, name=name, context=context)
        own(task, context)
        return task


class _OnTheSpot(ThreadPoolExecutor):
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _WriterOnTheSpot(Writer):
    """Commits what the thread would commit, all that has come in one turn of the loop.

    No power fails here, so nothing waits for a disk.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, appender: Appender) -> None:
        super().__init__(db, path, appender)
        db.execute("PRAGMA synchronous = OFF")

    def _hand_over(self) -> None:
        batch, self._waiting = self._waiting, []
        self._commit(batch)
        self._loop.call_soon(self._settle, batch)


def virtual_clock() -> int:
    """Milliseconds, as servers count them."""
    return EPOCH_MS + int(asyncio.get_running_loop().time() * 1000)


def run_virtually(patch: pytest.MonkeyPatch, work: Coroutine[Any, Any, T]) -> T:
    """The outcome of work to which time, stores and the ids of new rooms are like this."""
    chance = random.Random(0)
    patch.setattr(authoring, "token_urlsafe", lambda size: chance.randbytes(size).hex())
    patch.setattr(readers, "INLINE_ROWS", 1 << 40)
    patch.setattr(store, "Writer", _WriterOnTheSpot)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
