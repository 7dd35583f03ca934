"""Asking other servers: signed requests, JSON answers, and patience with those that do not answer."""

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

from federation.backoff import Backoff
from federation.errors import BackingOff, InvalidAnswer, Refused, RemoteError, Unreachable
from federation.request_auth import authorization
from federation.transport import Transport
from homeserver.egress.client import Answer
from homeserver.protocol.canonical_json import InvalidJson, encode_lenient, loads_strict
from homeserver.protocol.identifiers import InvalidIdentifier, check_server_name
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.server_acl import ServerAcl
from homeserver.protocol.signing import SigningKey

ANSWER_SECONDS = 60.0
MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024


def request_target(path: str, *segments: str, query: Mapping[str, str | Sequence[str]] | None = None) -> str:
    """A path with more segments and a query, escaped: what is signed and what is sent.

    `request_target("/_matrix/federation/v1/event", "$a/b")` is `/_matrix/federation/v1/event/%24a%2Fb`.
    """
    target = path + "".join("/" + quote(segment, safe="") for segment in segments)
    return f"{target}?{urlencode(query, doseq=True, quote_via=quote)}" if query else target


class FederationClient:
    """Speaks to other servers in this one's name.

    All methods raise Refused, Unreachable (BackingOff without having tried), RemoteError and InvalidAnswer.
    Any answer but 429 and 5xx is a sign of life, which ends the back-off; whoever else notices one tells
    `backoff`.
    """

    def __init__(
        self,
        server_name: str,
        key: SigningKey,
        transport: Transport,
        allowed: ServerAcl,
        backoff: Backoff,
    ) -> None:
        self._server_name = server_name
        self._key = key
        self._transport = transport
        self._allowed = allowed
        self._backoff = backoff

    async def get(
        self,
        destination: str,
        target: str,
        *,
        seconds: float = ANSWER_SECONDS,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> JsonObject:
        """What `destination` answers; `target` is made by `request_target`."""
        return await self._ask(destination, "GET", target, None, seconds, max_bytes)

    async def put(
        self,
        destination: str,
        target: str,
        content: JsonObject,
        *,
        seconds: float = ANSWER_SECONDS,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> JsonObject:
        """Like `get`, with a body."""
        return await self._ask(destination, "PUT", target, content, seconds, max_bytes)

    async def post(
        self,
        destination: str,
        target: str,
        content: JsonObject,
        *,
        seconds: float = ANSWER_SECONDS,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> JsonObject:
        """Like `get`, with a body."""
        return await self._ask(destination, "POST", target, content, seconds, max_bytes)

    async def _ask(
        self,
        destination: str,
        method: str,
        target: str,
        content: JsonObject | None,
        seconds: float,
        max_bytes: int,
    ) -> JsonObject:
        self._check(destination)
        headers = {
            "Authorization": authorization(method, target, self._server_name, destination, self._key, content)
        }
        if content is not None:
            headers["Content-Type"] = "application/json"
        try:
            answer = await self._transport.exchange(
                destination,
                method,
                target,
                seconds=seconds,
                max_bytes=max_bytes,
                headers=headers,
                body=None if content is None else encode_lenient(content),
            )
        except Unreachable:
            self._backoff.failed(destination)
            raise
        return self._content(destination, answer)

    def _check(self, destination: str) -> None:
        try:
            check_server_name(destination)
        except InvalidIdentifier as error:
            raise Refused(destination, str(error)) from None
        if destination == self._server_name:
            raise Refused(destination, "this is the server itself")
        if not self._allowed.allows(destination):
            raise Refused(destination, "the configuration does not allow it")
        wait = self._backoff.wait_ms(destination)
        if wait:
            raise BackingOff(destination, wait)

    def _content(self, destination: str, answer: Answer) -> JsonObject:
        if 200 <= answer.status < 300:
            self._backoff.alive(destination)
            try:
                return loads_strict(answer.body)
            except InvalidJson as error:
                raise InvalidAnswer(destination, str(error)) from None
        content = _error_content(answer.body)
        if answer.status == 429 or answer.status >= 500:
            self._backoff.failed(destination, _retry_after_ms(answer, content))
        else:
            self._backoff.alive(destination)
        raise RemoteError(destination, answer.status, content)


def _error_content(body: bytes) -> JsonObject:
    try:
        return loads_strict(body) if len(body) <= MAX_ERROR_BYTES else {}
    except InvalidJson:
        return {}


def _retry_after_ms(answer: Answer, content: JsonObject) -> int:
    """How long the other server wants to be left alone; 0 if it does not say."""
    header = answer.headers.get("Retry-After", "")
    if header.isascii() and header.isdigit():
        return int(header[:9]) * 1000
    wanted = content.get("retry_after_ms")
    return wanted if type(wanted) is int else 0
