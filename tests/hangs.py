"""A test that hangs says where, fails, and lets the others run.

First its coroutines are cancelled; if it hangs on, the process ends.
"""

import asyncio
import gc
import os
import sys
import threading
import traceback
from collections.abc import Generator
from typing import TextIO

import pytest

AFTER_SECONDS = float(os.environ.get("TEST_HANGS_AFTER_SECONDS", "400"))
AGAIN_SECONDS = 30.0
STACK = 12

_stderr: TextIO = sys.stderr


def pytest_configure() -> None:
    """Keep the way to the terminal that capturing closes during tests."""
    global _stderr
    _stderr = os.fdopen(os.dup(2), "w")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # A longer run of faults is given its time.
    patience = AFTER_SECONDS * max(1, int(os.environ.get("TEST_FAULT_ROUNDS", "1")))
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(item.nodeid, ended, patience), daemon=True)
    watch.start()
    try:
        return (yield)
    finally:
        ended.set()


def _watch(test: str, ended: threading.Event, patience: float) -> None:
    if ended.wait(patience):
        return
    tasks = [each for each in gc.get_objects() if isinstance(each, asyncio.Task) and not each.done()]
    print(f"\n{test} hangs for {patience:.0f} s. Its main thread:", file=_stderr)
    traceback.print_stack(sys._current_frames()[threading.main_thread().ident or 0], STACK, _stderr)
    for task in tasks:
        print(f"\n{task!r}", file=_stderr)
        task.print_stack(limit=STACK, file=_stderr)
    _stderr.flush()
    for task in tasks:
        task.get_loop().call_soon_threadsafe(task.cancel)
    if not ended.wait(AGAIN_SECONDS):
        print(f"\n{test} hangs even when cancelled; its process ends", file=_stderr, flush=True)
        os._exit(1)
