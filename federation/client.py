"""Asking other servers: signed requests, JSON answers, and patience with those that do not answer."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn
from urllib.parse import quote, urlencode

from federation.backoff import Backoff
from federation.errors import BackingOff, InvalidAnswer, Refused, RemoteError, Unreachable
from federation.request_auth import authorization
from federation.transport import Transport
from homeserver.egress.client import Incoming, TooLarge
from homeserver.protocol.canonical_json import InvalidJson, encode_lenient, loads_second_strict, loads_strict
from homeserver.protocol.identifiers import InvalidIdentifier, check_server_name
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.server_acl import ServerAcl
from homeserver.protocol.signing import SigningKey

ANSWER_SECONDS = 60.0
MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
OF_ONE_FILE = frozenset({"M_NOT_YET_UPLOADED", "M_TOO_LARGE"})
"""What a server that is well says of a file, with a status of 500 or more."""


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

    async def put_v1(
        self, destination: str, target: str, content: JsonObject, *, seconds: float, max_bytes: int
    ) -> JsonObject:
        """Like `put`, of an endpoint that answers `[200, {…}]`, as some did in their first version."""
        return await self._ask(destination, "PUT", target, content, seconds, max_bytes, loads_second_strict)

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

    @asynccontextmanager
    async def open(self, destination: str, target: str, *, seconds: float) -> AsyncIterator[Incoming]:
        """Like `get`, for an answer that is no JSON: to be read within the context as it comes in."""
        async with self._open(destination, "GET", target, None, seconds) as incoming:
            yield incoming

    async def _ask(
        self,
        destination: str,
        method: str,
        target: str,
        content: JsonObject | None,
        seconds: float,
        max_bytes: int,
        parse: Callable[[bytes], JsonObject] = loads_strict,
    ) -> JsonObject:
        async with self._open(destination, method, target, content, seconds) as incoming:
            body = await _read(incoming, max_bytes)
        try:
            return parse(body)
        except InvalidJson as error:
            raise InvalidAnswer(destination, str(error)) from None

    @asynccontextmanager
    async def _open(
        self, destination: str, method: str, target: str, content: JsonObject | None, seconds: float
    ) -> AsyncIterator[Incoming]:
        """An answer that is no error."""
        self._check(destination)
        headers = {
            "Authorization": authorization(method, target, self._server_name, destination, self._key, content)
        }
        if content is not None:
            headers["Content-Type"] = "application/json"
        body = None if content is None else encode_lenient(content)
        try:
            async with self._transport.open(
                destination, method, target, seconds=seconds, headers=headers, body=body
            ) as incoming:
                if not 200 <= incoming.status < 300:
                    await self._fail(destination, incoming)
                self._backoff.alive(destination)
                yield incoming
        except Unreachable:
            self._backoff.failed(destination)
            raise

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

    async def _fail(self, destination: str, incoming: Incoming) -> NoReturn:
        """Raises RemoteError for an answer that is an error."""
        content = await _error_content(incoming)
        error = RemoteError(destination, incoming.status, content)
        if (error.status == 429 or error.status >= 500) and error.errcode not in OF_ONE_FILE:
            self._backoff.failed(destination, _retry_after_ms(incoming, content))
        else:
            self._backoff.alive(destination)
        raise error


async def _read(incoming: Incoming, max_bytes: int) -> bytes:
    return b"".join([piece async for piece in incoming.pieces(max_bytes)])


async def _error_content(incoming: Incoming) -> JsonObject:
    try:
        return loads_strict(await _read(incoming, MAX_ERROR_BYTES))
    except (InvalidJson, TooLarge):
        return {}


def _retry_after_ms(incoming: Incoming, content: JsonObject) -> int:
    """How long the other server wants to be left alone; 0 if it does not say."""
    header = incoming.headers.get("Retry-After", "")
    if header.isascii() and header.isdigit():
        return int(header[:9]) * 1000
    wanted = content.get("retry_after_ms")
    return wanted if type(wanted) is int else 0
