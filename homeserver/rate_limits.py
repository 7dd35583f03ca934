"""Rate limits: how often somebody may do something (spec: client-server "Rate limiting").

Each limit of the configuration (`RateLimits` there) is one `Limit`: a token bucket for every key, a
key being a user or a client address. A bucket is one number, the time at which it will be full
again, so charging is a look-up and a comparison, and a bucket that is full need not be kept.

A limit is charged before the work that it protects is begun. Each replica counts for itself: behind
several replicas a client may do up to that many times as much.
"""

import time
from collections.abc import Callable

from homeserver.config.options import Rate
from homeserver.config.options import RateLimits as RateLimitOptions
from homeserver.errors import limit_exceeded

MAX_YOUNG = 20_000
"""Buckets per generation; two generations are kept."""

Monotonic = Callable[[], float]
"""Seconds since some moment; never goes back."""


class Limit:
    """The buckets of one limit.

    They are kept in two generations. When the young one is full it becomes the old one, and what was
    old is forgotten unless it was used again meanwhile: memory is bounded without ever walking it.
    """

    __slots__ = ("_burst", "_full_at", "_interval", "_monotonic", "_old", "_span", "refused")

    def __init__(self, rate: Rate, monotonic: Monotonic) -> None:
        self._interval = 1.0 / rate.per_second
        self._burst = rate.burst
        # A little more than the burst, so that rounding refuses nobody.
        self._span = self._interval * (rate.burst + 0.001)
        self._monotonic = monotonic
        self._full_at: dict[str, float] = {}
        self._old: dict[str, float] = {}
        self.refused = 0
        """How many charges were refused."""

    def charge(self, key: str, cost: int = 1) -> None:
        """Take `cost` tokens (a whole burst at most). Raises 429 M_LIMIT_EXCEEDED when they are not there."""
        now = self._monotonic()
        before = self._full_at.get(key)
        if before is None:
            before = self._full_at[key] = self._old.get(key, now)
            if len(self._full_at) > MAX_YOUNG:
                self._old, self._full_at = self._full_at, {}
        full_at = (before if before > now else now) + (
            self._interval if cost == 1 else self._interval * min(cost, self._burst)
        )
        if full_at - now > self._span:
            self.refused += 1
            raise limit_exceeded(int((full_at - now - self._span) * 1000) + 1)
        self._full_at[key] = full_at

    def refund(self, key: str) -> None:
        """Give one token back: what was charged for did not happen."""
        generation = self._full_at if key in self._full_at else self._old
        if key in generation:
            generation[key] -= self._interval


class RateLimits:
    """All limits of a server by the names of their options."""

    def __init__(self, options: RateLimitOptions, monotonic: Monotonic = time.monotonic) -> None:
        self._limits = {
            name: Limit(rate, monotonic) if options.enabled else None
            for name in options.__struct_fields__
            if isinstance(rate := getattr(options, name), Rate)
        }

    def __getitem__(self, name: str) -> Limit | None:
        """One limit, None when limits are off. Raises KeyError for a name that no option has."""
        return self._limits[name]

    def refused(self) -> dict[str, int]:
        """How many charges each of the limits that hold has refused."""
        return {name: limit.refused for name, limit in self._limits.items() if limit is not None}

    def charge(self, name: str, key: str, cost: int = 1) -> None:
        """Charge a limit if limits are on. Raises 429 M_LIMIT_EXCEEDED."""
        limit = self._limits[name]
        if limit is not None:
            limit.charge(key, cost)

    def refund(self, name: str, key: str) -> None:
        limit = self._limits[name]
        if limit is not None:
            limit.refund(key)
