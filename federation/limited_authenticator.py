"""Who sent a request; addresses from which nobody proves to be a server are limited (`unproven_server`)."""

from collections.abc import Sequence

from aiohttp import web

from federation.authenticator import Authenticator
from homeserver.protocol.json_types import JsonValue
from homeserver.rate_limits import RateLimits
from rest.client_address import ClientAddresses

LIMIT = "unproven_server"


class LimitedAuthenticator:
    """An authenticator, and how often each address may try it."""

    def __init__(self, authenticator: Authenticator, limits: RateLimits, addresses: ClientAddresses) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._addresses = addresses

    def charge(self, request: web.Request, cost: int = 1) -> None:
        """Before anything of a request is looked at. Raises 429 M_LIMIT_EXCEEDED."""
        self._limits.charge(LIMIT, self._addresses.of(request), cost)

    async def origin(self, request: web.Request, headers: Sequence[str], content: JsonValue) -> str:
        """See `Authenticator`. Who proves to be a server is not charged for it."""
        origin = await self._authenticator.origin(request.method, request.raw_path, headers, content)
        self._limits.refund(LIMIT, self._addresses.of(request))
        return origin
