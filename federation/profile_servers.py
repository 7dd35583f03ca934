"""Other servers asked for the profiles of their users (spec: server-server "Querying for information")."""

from federation.client import FederationClient, request_target
from federation.errors import FederationError, RemoteError
from homeserver.errors import MatrixError, not_found
from homeserver.protocol.json_types import JsonObject

SECONDS = 15.0
MAX_BYTES = 256 * 1024


class RemoteProfileServers:
    """Implements `homeserver.users.remote_profiles.ProfileServers`."""

    def __init__(self, client: FederationClient) -> None:
        self._client = client

    async def profile(self, server: str, user_id: str) -> JsonObject:
        target = request_target("/_matrix/federation/v1/query/profile", query={"user_id": user_id})
        try:
            return await self._client.get(server, target, seconds=SECONDS, max_bytes=MAX_BYTES)
        except RemoteError as error:
            if error.status == 404 and error.errcode == "M_NOT_FOUND":
                raise not_found("There is no such user") from None
            raise _no_answer() from error
        except FederationError as error:
            raise _no_answer() from error


def _no_answer() -> MatrixError:
    return MatrixError(502, "M_UNKNOWN", "The user's server does not answer")
