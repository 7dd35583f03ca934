"""Servers that did not answer are left alone for a while, the longer the longer it lasts."""

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from homeserver.clock import Clock

MAX_SERVERS = 10_000
JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Silence:
    """Since when a server has not answered, and when it is asked again; times in ms since 1970."""

    since: int
    pause: int
    """How long it is left alone this time, without the jitter (ms)."""
    retry_at: int

    def left(self, now: int) -> int:
        """How long the pause lasts yet; one that is longer than it was made is of a clock that was wrong."""
        left = self.retry_at - now
        return left if 0 < left <= self.pause * (1.0 + JITTER) else 0


class Backoff:
    """What is known of servers that do not answer.

    The pause doubles from `first_ms` to `longest_ms`, with jitter, so that what failed together does not come
    back together. Requests that fail while a pause lasts were on their way before: they do not prolong it.
    Of more than `MAX_SERVERS` the one that failed longest ago is forgotten.
    """

    def __init__(
        self,
        now: Clock,
        *,
        first_ms: int = 10_000,
        longest_ms: int = 3_600_000,
        rng: random.Random | None = None,
    ) -> None:
        self._now = now
        self._first_ms = first_ms
        self._longest_ms = longest_ms
        self._rng = rng or random.Random()
        self._silent: OrderedDict[str, Silence] = OrderedDict()
        self.on_change: list[Callable[[str, Silence | None], None]] = []
        """Told when a server fails, and when one that did answers again (None)."""

    def silence(self, server: str) -> Silence | None:
        """None while the server answers."""
        return self._silent.get(server)

    def _tell(self, server: str, silence: Silence | None) -> None:
        for told in self.on_change:
            told(server, silence)

    def silent(self) -> Iterable[str]:
        """The servers that do not answer."""
        return self._silent.keys()

    def restore(self, server: str, silence: Silence) -> None:
        """What was known of a server before."""
        self._silent.setdefault(server, silence)

    def wait_ms(self, server: str) -> int:
        """How long it is left alone yet; 0: it may be asked."""
        silence = self._silent.get(server)
        return 0 if silence is None else silence.left(self._now())

    def failed(self, server: str, retry_after_ms: int = 0) -> None:
        """It did not answer, or wants to be left alone for `retry_after_ms`, heeded within bounds."""
        now = self._now()
        before = self._silent.pop(server, None)
        if before is not None and before.left(now):
            silence = before
        else:
            pause = self._first_ms if before is None else before.pause * 2
            pause = min(max(pause, retry_after_ms), self._longest_ms)
            retry_at = now + int(pause * self._rng.uniform(1.0, 1.0 + JITTER))
            silence = Silence(before.since if before is not None else now, pause, retry_at)
            self._tell(server, silence)
        self._silent[server] = silence
        if len(self._silent) > MAX_SERVERS:
            self._silent.popitem(last=False)

    def alive(self, server: str) -> None:
        """It answered, or came by itself."""
        if self._silent.pop(server, None) is not None:
            self._tell(server, None)
