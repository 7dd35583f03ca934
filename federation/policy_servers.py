"""Policy servers asked for their signatures (spec: server-server "Policy Servers")."""

from federation.client import FederationClient
from federation.errors import FederationError, RemoteError
from homeserver.errors import MatrixError
from homeserver.protocol.json_types import JsonObject

SIGN = "/_matrix/policy/v1/sign"
SECONDS = 15.0
MAX_BYTES = 64 * 1024


class RemotePolicyServers:
    """Implements `homeserver.rooms.policy.PolicyServers`."""

    def __init__(self, client: FederationClient) -> None:
        self._client = client

    async def sign(self, server: str, pdu: JsonObject) -> JsonObject:
        try:
            return await self._client.post(server, SIGN, pdu, seconds=SECONDS, max_bytes=MAX_BYTES)
        except RemoteError as error:
            if error.status in (400, 403, 404):
                raise MatrixError(error.status, error.errcode, error.error) from error
            raise _silent() from error
        except FederationError as error:
            raise _silent() from error


def _silent() -> MatrixError:
    return MatrixError(502, "M_UNKNOWN", "The policy server of the room does not answer")
