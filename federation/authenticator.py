"""Who sent a request: its X-Matrix signature, checked with the sender's key."""

from collections.abc import Sequence

from federation.backoff import Backoff
from federation.key_ring import KeyRing, UnknownKey
from federation.request_auth import (
    InvalidAuthorization,
    check_destination,
    check_signature,
    parse_authorization,
)
from homeserver.errors import MatrixError, forbidden
from homeserver.protocol.json_types import JsonValue
from homeserver.protocol.server_acl import ServerAcl


class Authenticator:
    """Lets in requests that are signed by the server they say they are from."""

    def __init__(self, server_name: str, ring: KeyRing, allowed: ServerAcl, backoff: Backoff) -> None:
        """`backoff`: that of the requests to others, who are alive when they come here."""
        self._server_name = server_name
        self._ring = ring
        self._allowed = allowed
        self._backoff = backoff

    async def origin(self, method: str, target: str, headers: Sequence[str], content: JsonValue) -> str:
        """The name of the server that a request is from.

        `target` is the path with the query as it came, `headers` the values of `Authorization`, `content`
        the JSON of the body, None without one. Raises MatrixError 401 M_UNAUTHORIZED, 403 M_FORBIDDEN for a
        server that the configuration shuts out, and StoreError.
        """
        if len(headers) != 1:
            raise _unauthorized("the request needs one Authorization header")
        try:
            credentials = parse_authorization(headers[0])
            check_destination(credentials, self._server_name)
            if credentials.origin == self._server_name:
                raise InvalidAuthorization("the request says that it is from this server itself")
            # The list comes before the key, for which a server has to be asked.
            if not self._allowed.allows(credentials.origin):
                raise forbidden("This server does not talk to yours")
            key = await self._ring.request_key(credentials.origin, credentials.key_id)
            check_signature(credentials, method, target, key, content)
        except (InvalidAuthorization, UnknownKey) as error:
            raise _unauthorized(str(error)) from None
        self._backoff.alive(credentials.origin)
        return credentials.origin


def _unauthorized(error: str) -> MatrixError:
    return MatrixError(401, "M_UNAUTHORIZED", error)
