"""Rate limits: how often somebody may do something (spec: client-server "Rate limiting").

Each limit of the configuration (`RateLimits` there) is one `Limit`: a token bucket for every key, a
key being a user or a client address. A bucket is one number, the time at which it will be full
again, so charging is a look-up and a comparison, and a bucket that is full need not be kept.

A limit is charged before the work that it protects is begun. Where there are other replicas they are told
what was charged here, and charge it to their own buckets: who goes from one to the next may come to some
more at first, and then waits the longer (`SharedLimits`).
"""

import asyncio
import time
from collections.abc import Callable, Mapping

import orjson

from homeserver.bus.to_others import ToOthers
from homeserver.config.options import Rate
from homeserver.config.options import RateLimits as RateLimitOptions
from homeserver.errors import limit_exceeded

MAX_YOUNG = 20_000
"""Buckets per generation; two generations are kept."""

TOLD_PARTS = 10
"""Other replicas are told when this part of a burst was charged, or a single token of a small one."""
TELL_SECONDS = 1.0
KEYS_AT_ONCE = 2_000
CHARGED = "rate_limits"
"""Kind of message: [limit, {key: tokens}]."""

Monotonic = Callable[[], float]
"""Seconds since some moment; never goes back."""


class Limit:
    """The buckets of one limit.

    They are kept in two generations. When the young one is full it becomes the old one, and what was
    old is forgotten unless it was used again meanwhile: memory is bounded without ever walking it.
    """

    __slots__ = ("_burst", "_full_at", "_interval", "_monotonic", "_old", "_span", "refused", "untold")

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
        self.untold: dict[str, int] | None = None
        """What was charged to whom since the other replicas were told; None where there are none."""

    def charge(self, key: str, cost: int = 1) -> None:
        """Take `cost` tokens (a whole burst at most). Raises 429 M_LIMIT_EXCEEDED when they are not there."""
        now = self._monotonic()
        before = self._full_at.get(key)
        if before is None:
            before = self._rejuvenate(key, now)
        full_at = (before if before > now else now) + (
            self._interval if cost == 1 else self._interval * min(cost, self._burst)
        )
        if full_at - now > self._span:
            self.refused += 1
            raise limit_exceeded(int((full_at - now - self._span) * 1000) + 1)
        self._full_at[key] = full_at
        if self.untold is not None:
            self.untold[key] = self.untold.get(key, 0) + min(cost, self._burst)

    def spend(self, key: str, tokens: int) -> None:
        """Take tokens that are spent already: nobody is refused, but will wait the longer."""
        self.add(key, tokens)
        if self.untold is not None:
            self.untold[key] = self.untold.get(key, 0) + tokens

    def refund(self, key: str) -> None:
        """Give one token back: what was charged for did not happen."""
        generation = self._full_at if key in self._full_at else self._old
        if key in generation:
            generation[key] -= self._interval
            if self.untold is not None:
                self.untold[key] = self.untold.get(key, 0) - 1

    def _rejuvenate(self, key: str, now: float) -> float:
        """Have the key's bucket in the young generation; when it will be full."""
        full_at = self._full_at[key] = self._old.get(key, now)
        if len(self._full_at) > MAX_YOUNG:
            self._old, self._full_at = self._full_at, {}
        return full_at

    # With other replicas

    def add(self, key: str, tokens: int) -> None:
        """Take (or give back) what another replica has: it was spent there, so nothing is refused."""
        now = self._monotonic()
        before = self._full_at.get(key)
        if before is None:
            before = self._rejuvenate(key, now)
        self._full_at[key] = max(before, now) + tokens * self._interval

    def take_untold(self) -> dict[str, int]:
        """What the other replicas should hear of now: keys that have come to some part of a burst.

        The others are kept until they do, or until their buckets are full again.
        """
        untold, now, worth_telling = self.untold or {}, self._monotonic(), max(1, self._burst // TOLD_PARTS)
        self.untold = {
            key: tokens
            for key, tokens in untold.items()
            if 0 < abs(tokens) < worth_telling and self._full_at.get(key, 0.0) > now
        }
        return {key: tokens for key, tokens in untold.items() if abs(tokens) >= worth_telling}


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
        return {name: limit.refused for name, limit in self.held().items()}

    def held(self) -> Mapping[str, Limit]:
        """The limits that hold, by name."""
        return {name: limit for name, limit in self._limits.items() if limit is not None}

    def charge(self, name: str, key: str, cost: int = 1) -> None:
        """Charge a limit if limits are on. Raises 429 M_LIMIT_EXCEEDED."""
        limit = self._limits[name]
        if limit is not None:
            limit.charge(key, cost)

    def spend(self, name: str, key: str, tokens: int) -> None:
        """See `Limit.spend`."""
        limit = self._limits[name]
        if limit is not None:
            limit.spend(key, tokens)

    def refund(self, name: str, key: str) -> None:
        limit = self._limits[name]
        if limit is not None:
            limit.refund(key)


class SharedLimits:
    """The limits of one replica, charged with what the others tell."""

    def __init__(self, limits: RateLimits, to_others: ToOthers) -> None:
        self._limits = limits.held()
        self._to_others = to_others
        if to_others.shared:
            for limit in self._limits.values():
                limit.untold = {}
        to_others.subscribe(CHARGED, self._on_charged)

    async def keep_telling(self) -> None:
        """Tell the others, where there are any, until cancelled."""
        while self._to_others.shared:
            await asyncio.sleep(TELL_SECONDS)
            self.tell()

    def tell(self) -> None:
        """Tell what was charged here since the last time."""
        for name, limit in self._limits.items():
            charged = list(limit.take_untold().items())
            for first in range(0, len(charged), KEYS_AT_ONCE):
                some = dict(charged[first : first + KEYS_AT_ONCE])
                self._to_others.tell(CHARGED, orjson.dumps((name, some)))

    def _on_charged(self, body: bytes) -> None:
        name, charged = orjson.loads(body)
        limit = self._limits.get(name)
        if limit is not None:
            for key, tokens in charged.items():
                limit.add(key, tokens)
