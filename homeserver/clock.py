"""The clock, given to whoever needs one, so that tests can set it."""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Milliseconds since 1970."""


def system_clock() -> int:
    return time.time_ns() // 1_000_000


def credible(claimed: int, now: int) -> int:
    """The time that an event claims, as far as it can be true by this server's clock."""
    return min(max(claimed, 0), now)
