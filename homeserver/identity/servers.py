"""Identity servers asked for those of this server's users who have an account there.

What they say is believed, so only those are asked that the configuration trusts. Their errors are told to
the client that is behind the request, whose token for the identity server goes along.

spec: identity-service-api
"""

import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

import orjson
import structlog
from yarl import URL

from homeserver.egress.client import Egress, EgressError
from homeserver.errors import MatrixError, invalid_param, no_identity_server
from homeserver.identity.addresses import Address, canonical
from homeserver.protocol.canonical_json import InvalidJson, loads_strict
from homeserver.protocol.identifiers import InvalidIdentifier, check_user_id
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.signing import encode_base64

log = structlog.get_logger(__name__)

API = "/_matrix/identity/v2"
SECONDS = 15.0
MAX_BYTES = 64 * 1024
MAX_KEYS = 10
"""With which an invite that waits may be claimed."""
MAX_TEXT = 500

STALE_PEPPER = "M_INVALID_PEPPER"
OF_SESSIONS = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_LOCKED"})
"""What makes clients log out, when they hear it from their own server."""

_TOKEN = re.compile(r"[!-~]{1,4096}")
_INVITE_TOKEN = re.compile(r"[0-9A-Za-z.=_-]{1,255}")


Sign = Callable[[str, str, str, JsonObject], str]
"""Makes the header that shows a request to be this server's, of method, target, destination and content."""


class Unsupported(MatrixError):
    """The identity server does not know what was asked of it."""


class Account(NamedTuple):
    """A user's account at an identity server."""

    server: str
    """A host name, perhaps with a port."""
    token: str

    @property
    def authorization(self) -> str:
        return f"Bearer {self.token}"


class Waiting(NamedTuple):
    """An invite that an identity server keeps for somebody until it knows who that is."""

    token: str
    content: JsonObject
    """Of the m.room.third_party_invite event under that token."""


class IdentityServers:
    """Those that are trusted."""

    def __init__(self, trusted: Sequence[str], egress: Egress, sign: Sign) -> None:
        self._trusted = frozenset(name.lower() for name in trusted)
        self._egress = egress
        self._sign = sign

    def check_any(self) -> None:
        """Raises 400 M_SERVER_NOT_TRUSTED where none is trusted."""
        if not self._trusted:
            raise no_identity_server()

    def account(self, server: str, token: str) -> Account:
        """Raises 400 M_SERVER_NOT_TRUSTED, and M_INVALID_PARAM for what can be no token."""
        self.check_any()
        if server.lower() not in self._trusted:
            raise MatrixError(400, "M_SERVER_NOT_TRUSTED", "This server does not trust that identity server")
        if not _TOKEN.fullmatch(token):
            raise invalid_param("id_access_token: not a token of an identity server")
        return Account(server.lower(), token)

    async def user_of(self, account: Account, address: Address) -> str | None:
        """The user who has an address, None if the identity server knows none.

        Raises MatrixError: what the identity server says against it, and 502.
        spec: identity-service-api#association-lookup
        """
        try:
            return await self._look_up(account, address)
        except MatrixError as error:
            if error.errcode != STALE_PEPPER:
                raise
        return await self._look_up(account, address)

    async def _look_up(self, account: Account, address: Address) -> str | None:
        details = await self._ask(account, "GET", "/hash_details")
        pepper, algorithms = details.get("lookup_pepper"), details.get("algorithms")
        if not isinstance(pepper, str) or not isinstance(algorithms, list):
            raise _makes_no_sense(account.server)
        query = f"{address.address} {address.medium}"
        algorithm = "sha256" if "sha256" in algorithms else "none"
        if algorithm == "sha256":
            digest = encode_base64(sha256(f"{query} {pepper}".encode()).digest())
            query = digest.replace("+", "-").replace("/", "_")
        wanted = {"algorithm": algorithm, "pepper": pepper, "addresses": [query]}
        mappings = (await self._ask(account, "POST", "/lookup", wanted)).get("mappings")
        if not isinstance(mappings, dict):
            raise _makes_no_sense(account.server)
        if query not in mappings:
            return None
        try:
            return check_user_id(str(mappings[query]))
        except InvalidIdentifier as error:
            raise _makes_no_sense(account.server) from error

    async def store_invite(self, account: Account, invite: JsonObject) -> Waiting:
        """Have somebody told of an invite, who may claim it once they say who they are.

        Raises what `user_of` does.
        spec: identity-service-api#invitation-storage
        """
        stored = await self._ask(account, "POST", "/store-invite", invite)
        token, name, keys = stored.get("token"), stored.get("display_name"), stored.get("public_keys")
        if not isinstance(token, str) or not _INVITE_TOKEN.fullmatch(token) or not isinstance(name, str):
            raise _makes_no_sense(account.server)
        if not isinstance(keys, list) or not 0 < len(keys) <= MAX_KEYS:
            raise _makes_no_sense(account.server)
        public_keys = [_public_key(account.server, key) for key in keys]
        return Waiting(token, {"display_name": name, **public_keys[0], "public_keys": public_keys})

    async def bind(self, account: Account, user_id: str, sid: str, client_secret: str) -> Address:
        """Publish a user under the address that a session is about; what that is. Raises what `user_of` does.

        spec: identity-service-api#establishing-associations
        """
        session = {"sid": sid, "client_secret": client_secret, "mxid": user_id}
        bound = await self._ask(account, "POST", "/3pid/bind", session)
        try:
            return canonical(str(bound.get("medium")), str(bound.get("address")))
        except MatrixError as error:
            raise _makes_no_sense(account.server) from error

    async def unbind(self, server: str, user_id: str, address: Address) -> bool:
        """End that, in this server's name; False where that is not possible. Raises what `user_of` does."""
        server = server.lower()
        if server not in self._trusted:
            return False
        path, content = "/3pid/unbind", {"mxid": user_id, "threepid": address._asdict()}
        signed = self._sign("POST", API + path, server, content)
        try:
            await self._request(server, signed, "POST", path, content)
        except MatrixError as error:
            if isinstance(error, Unsupported) or error.errcode == "M_UNRECOGNIZED":
                return False
            raise
        return True

    async def _ask(
        self, account: Account, method: str, path: str, content: JsonObject | None = None
    ) -> JsonObject:
        return await self._request(account.server, account.authorization, method, path, content)

    async def _request(
        self, server: str, authorization: str, method: str, path: str, content: JsonObject | None
    ) -> JsonObject:
        headers = {"Authorization": authorization}
        if content is not None:
            headers["Content-Type"] = "application/json"
        try:
            answer = await self._egress.fetch(
                method,
                URL(f"https://{server}{API}{path}", encoded=True),
                seconds=SECONDS,
                max_bytes=MAX_BYTES,
                headers=headers,
                body=None if content is None else orjson.dumps(content),
            )
        except EgressError as error:
            log.info("an identity server does not answer", server=server, reason=str(error))
            raise MatrixError(502, "M_UNKNOWN", "The identity server does not answer") from error
        try:
            said = loads_strict(answer.body)
        except InvalidJson as error:
            if answer.status in (400, 404, 501):
                raise Unsupported(502, "M_UNKNOWN", "The identity server does not know this") from error
            raise _makes_no_sense(server) from error
        if 200 <= answer.status < 300:
            return said
        raise _refusal(server, answer.status, said)


def _public_key(server: str, key: object) -> JsonObject:
    fields = ("public_key", "key_validity_url")
    if not isinstance(key, dict) or not all(isinstance(key.get(field), str) for field in fields):
        raise _makes_no_sense(server)
    return {field: key[field] for field in fields}


def _refusal(server: str, status: int, said: JsonObject) -> MatrixError:
    """An error of the identity server as a client is told it: not as one of its own server."""
    errcode = said.get("errcode")
    if status >= 500:
        log.info("an identity server fails", server=server, status=status)
        return MatrixError(502, "M_UNKNOWN", "The identity server fails")
    if status < 400 or not isinstance(errcode, str) or not errcode.startswith("M_"):
        return _makes_no_sense(server)
    if errcode in OF_SESSIONS:
        errcode = "M_UNAUTHORIZED"
    error = f"The identity server says: {str(said.get('error', ''))[:MAX_TEXT]}"
    return MatrixError(403 if status == 401 else status, errcode, error)


def _makes_no_sense(server: str) -> MatrixError:
    log.info("an identity server makes no sense", server=server)
    return MatrixError(502, "M_UNKNOWN", "The identity server answers what makes no sense")
