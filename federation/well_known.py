"""Where a domain says that its homeserver is: the file `/.well-known/matrix/server`.

spec: server-server#resolving-server-names 3

The answer is kept for as long as its headers say, within bounds. A domain that once delegated is believed on
when its web server fails for a while; one that has no such file is asked again, at growing intervals.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from yarl import URL

from homeserver.clock import Clock
from homeserver.egress.client import Egress, EgressError
from homeserver.protocol.canonical_json import InvalidJson, loads_strict
from homeserver.protocol.identifiers import InvalidIdentifier, check_server_name
from homeserver.single_flight import SingleFlight

MAX_BYTES = 50 * 1024
MAX_DEPTH = 10
MAX_REDIRECTS = 5
MAX_HOSTS = 10_000
REDIRECTS = frozenset((301, 302, 303, 307, 308))

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
USUAL_MS = 24 * HOUR_MS
LEAST_MS = 5 * MINUTE_MS
MOST_MS = 48 * HOUR_MS
FIRST_ERROR_MS = 2 * MINUTE_MS
MOST_ERROR_MS = HOUR_MS

_MAX_AGE = re.compile(r"max-age\s*=\s*\"?([0-9]{1,10})")
_NOT_KEPT = re.compile(r"no-store|no-cache")


class _NoDelegation(Exception):
    """There is no answer, or none that counts."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a host said; times in ms since 1970."""

    delegated: str | None
    until: int
    """When it is asked again."""
    said: int
    """When it last gave `delegated`."""
    failures: int = 0


class WellKnown:
    """The delegations of all hosts that were asked lately."""

    def __init__(self, egress: Egress, now: Clock, *, seconds: float) -> None:
        """`seconds`: how long one host may take, redirects included."""
        self._egress = egress
        self._now = now
        self._seconds = seconds
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asking: SingleFlight[str, str | None] = SingleFlight()

    async def delegated(self, host: str) -> str | None:
        """The server name that a host delegates to, None if it does not."""
        known = self._known.get(host)
        if known is not None and self._now() < known.until:
            return known.delegated
        return await self._asking.run(host, lambda: self._ask(host))

    async def close(self) -> None:
        await self._asking.close()

    async def _ask(self, host: str) -> str | None:
        before = self._known.pop(host, None)
        try:
            async with asyncio.timeout(self._seconds):
                delegated, lifetime = await self._fetch(host)
        except (EgressError, TimeoutError, _NoDelegation):
            known = self._failed(before)
        else:
            known = _Known(delegated, self._now() + lifetime, self._now())
        self._known[host] = known
        if len(self._known) > MAX_HOSTS:
            self._known.popitem(last=False)
        return known.delegated

    def _failed(self, before: _Known | None) -> _Known:
        now = self._now()
        if before is None:
            return _Known(None, now + FIRST_ERROR_MS, now, 1)
        lifetime = min(FIRST_ERROR_MS << min(before.failures, 10), MOST_ERROR_MS)
        delegated = before.delegated if now < before.said + MOST_MS else None
        return _Known(delegated, now + lifetime, before.said, before.failures + 1)

    async def _fetch(self, host: str) -> tuple[str, int]:
        """(server name, for how many ms it holds). Raises _NoDelegation and EgressError."""
        url = URL(f"https://{host}/.well-known/matrix/server", encoded=True)
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._egress.fetch("GET", url, seconds=self._seconds, max_bytes=MAX_BYTES)
            if answer.status not in REDIRECTS:
                break
            url = _redirected(url, answer.headers.get("Location", ""))
        if answer.status != 200:
            raise _NoDelegation
        try:
            name = loads_strict(answer.body, max_depth=MAX_DEPTH).get("m.server")
            if not isinstance(name, str):
                raise _NoDelegation
            return check_server_name(name), self._lifetime(answer.headers)
        except (InvalidJson, InvalidIdentifier):
            raise _NoDelegation from None

    def _lifetime(self, headers: Mapping[str, str]) -> int:
        """For how many ms an answer with these headers is kept."""
        control = headers.get("Cache-Control", "").lower()
        if _NOT_KEPT.search(control):
            return LEAST_MS
        lifetime = USUAL_MS
        if found := _MAX_AGE.search(control):
            lifetime = int(found[1]) * 1000
        elif expires := headers.get("Expires"):
            try:
                lifetime = int(parsedate_to_datetime(expires).timestamp() * 1000) - self._now()
            except (ValueError, OverflowError):
                lifetime = 0  # spec: RFC 9111, section 5.3
        return min(max(lifetime, LEAST_MS), MOST_MS)


def _redirected(url: URL, location: str) -> URL:
    """Where a redirect leads. Raises _NoDelegation when that is out of TLS, or nowhere."""
    try:
        target = url.join(URL(location))
    except ValueError:
        raise _NoDelegation from None
    if not location or target.scheme != "https" or not target.host:
        raise _NoDelegation
    return target.with_user(None).with_fragment(None)
