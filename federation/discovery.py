"""From a server's name to where it listens (spec: server-server#resolving-server-names).

What is found holds for some minutes, or until nobody answers there (`forget`).
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from federation.well_known import WellKnown
from homeserver.clock import Clock
from homeserver.egress.names import Names, Service
from homeserver.protocol.identifiers import InvalidIdentifier, check_server_name
from homeserver.single_flight import SingleFlight

DEFAULT_PORT = 8448
SERVICES = ("_matrix-fed._tcp", "_matrix._tcp")
MAX_TARGETS = 8
MAX_ROUTES = 10_000
ROUTE_MS = 5 * 60_000


@dataclass(frozen=True, slots=True)
class Route:
    """Where to connect to, and whom to expect there."""

    host_header: str
    tls_name: str
    """The host name or IP address that the certificate must be for."""
    targets: tuple[tuple[str, int], ...]
    """Host names or IP addresses with ports, best first; none if the server says that it is not there."""


class Discovery:
    """Finds servers."""

    def __init__(
        self,
        names: Names,
        well_known: WellKnown,
        now: Clock,
        *,
        seconds: float,
        rng: random.Random | None = None,
    ) -> None:
        """`seconds`: how long looking up one SRV record may take."""
        self._names = names
        self._well_known = well_known
        self._now = now
        self._seconds = seconds
        self._rng = rng or random.Random()
        self._routes: OrderedDict[str, tuple[Route, int]] = OrderedDict()
        self._finding: SingleFlight[str, Route] = SingleFlight()

    async def find(self, server_name: str) -> Route:
        """Where a server, whose name has been checked, is to be reached."""
        route, until = self._routes.get(server_name, (None, 0))
        if route is not None and self._now() < until:
            return route
        return await self._finding.run(server_name, lambda: self._find(server_name))

    def forget(self, server_name: str) -> None:
        """Nobody answers there: look anew the next time."""
        self._routes.pop(server_name, None)

    async def close(self) -> None:
        await self._finding.close()
        await self._well_known.close()

    async def _find(self, server_name: str) -> Route:
        host, port = _parted(server_name)
        if _is_ip(host) or port is not None:
            route = _direct(server_name, host, port)
        else:
            route = await self._delegated(await self._well_known.delegated(host) or host)
        self._routes.pop(server_name, None)
        self._routes[server_name] = route, self._now() + ROUTE_MS
        if len(self._routes) > MAX_ROUTES:
            self._routes.popitem(last=False)
        return route

    async def _delegated(self, name: str) -> Route:
        """Steps 3.1 to 3.5, and 4 to 6, which are the same for a server that does not delegate."""
        host, port = _parted(name)
        if _is_ip(host) or port is not None:
            return _direct(name, host, port)
        for service in SERVICES:
            try:
                async with asyncio.timeout(self._seconds):
                    found = await self._names.services(f"{service}.{host}")
            except TimeoutError:
                continue
            if found:
                return Route(name, host, _targets(found, self._rng))
        return _direct(name, host, None)


def _direct(name: str, host: str, port: int | None) -> Route:
    """Steps 1, 2, 3.1, 3.2, 3.5 and 6: the name says it all."""
    bare = host.strip("[]")
    return Route(name, bare, ((bare, DEFAULT_PORT if port is None else port),))


def _parted(server_name: str) -> tuple[str, int | None]:
    """Host, with the brackets of IPv6, and port."""
    host, colon, port = server_name.rpartition(":")
    if colon and not port.endswith("]"):
        return host, int(port)
    return server_name, None


def _is_ip(host: str) -> bool:
    try:
        return isinstance(ip_address(host.strip("[]")), IPv6Address) == host.startswith("[")
    except ValueError:
        return False


def _targets(services: Sequence[Service], rng: random.Random) -> tuple[tuple[str, int], ...]:
    """In the order in which to try them: by priority, and within one by lot, as weighted (RFC 2782)."""
    ordered: list[tuple[str, int]] = []
    waiting = sorted(services, key=lambda service: (service.priority, service.weight))
    while waiting and len(ordered) < MAX_TARGETS:
        first = [service for service in waiting if service.priority == waiting[0].priority]
        # Those without weight have a small chance yet.
        (chosen,) = rng.choices(first, [service.weight or 0.1 for service in first])
        waiting.remove(chosen)
        host = chosen.target.rstrip(".")
        if _is_host(host):
            ordered.append((host, chosen.port))
    return tuple(ordered)


def _is_host(text: str) -> bool:
    """A host name, as it may stand in a URL. "" is not: it says that there is no such service."""
    try:
        return ":" not in check_server_name(text)
    except InvalidIdentifier:
        return False
