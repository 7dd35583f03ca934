"""Which address a request comes from, when reverse proxies stand between (option `trusted_proxies`).

`X-Forwarded-For` is written from left to right, each proxy adding whom it heard from. It is believed
from right to left, as long as the one who wrote an entry is a proxy of ours: whatever a client wrote
itself stands further left than the address that our own proxy saw.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from aiohttp import web

from homeserver.config.units import Network

MAX_HOPS = 16
REMEMBERED = 4096


class ClientAddresses:
    """Finds the client's address of a request."""

    def __init__(
        self, trusted: Sequence[Network], is_replica: Callable[[web.Request], bool] = lambda request: False
    ) -> None:
        """What another replica passes on is believed like what a proxy does."""
        self._trusted = trusted
        self._is_replica = is_replica
        self._parsed = lru_cache(REMEMBERED)(self._parse)

    def of(self, request: web.Request) -> str:
        """The address as text; "" when the connection has none (a Unix socket)."""
        client, is_proxy = self._parsed(request.remote or "")
        if "X-Forwarded-For" in request.headers and (is_proxy or self._is_replica(request)):
            hops = ",".join(request.headers.getall("X-Forwarded-For")).rsplit(",", MAX_HOPS)[-MAX_HOPS:]
            for hop in reversed(hops):
                address, is_proxy = self._parsed(hop.strip())
                if not address:
                    break
                client = address
                if not is_proxy:
                    break
        return client

    def _parse(self, text: str) -> tuple[str, bool]:
        """An address in its plain form ("" for what is none), and whether it is one of our proxies."""
        address = parse_address(text)
        if address is None:
            return "", False
        return str(address), any(address in network for network in self._trusted)


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An IP address, also with a port or in brackets; IPv4 in IPv6 clothes is IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(REMEMBERED)
def subscriber(address: str) -> str:
    """What rate limits count as one client: an IPv4 address, or the /64 that an IPv6 subscriber is given."""
    if ":" not in address:
        return address
    return str(IPv6Network((address.partition("%")[0], 64), strict=False))
