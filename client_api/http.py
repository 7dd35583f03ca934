"""How routes are declared and served.

A module of routes is a class whose decorated methods are handlers:

    class Typing(Routes):
        @put("/rooms/{room_id}/typing/{user_id}")
        async def set_typing(self, call: Call) -> Answer: ...

Paths are relative to `/_matrix/client/v3` (and its old name r0) unless they begin with `/_`.
`mount` registers them on aiohttp's router with the answers that the spec wants around them: CORS on
everything, 404 and 405 as M_UNRECOGNIZED before any authentication, one JSON form for all errors
(spec: client-server "API Standards").

Before its handler a request passes the `Gate`: who calls, whether that account may do this now
(guests, locked and suspended accounts), and whether the rate limit that the route names has room.
All of it comes before the body is read.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from enum import Enum
from time import perf_counter
from typing import Any, NamedTuple, Protocol, TypedDict, TypeVar, Unpack

import msgspec
import orjson
import structlog
from aiohttp import web
from multidict import CIMultiDict

from client_api.client_address import ClientAddresses, subscriber
from client_api.json_response import CORS, JsonResponse
from client_api.paths import Paths
from homeserver.errors import MatrixError, bad_json, invalid_param, missing_param, too_large, unavailable
from homeserver.metrics import Metered, Requests
from homeserver.protocol.canonical_json import InvalidJson, check_depth
from homeserver.protocol.identifiers import InvalidIdentifier
from homeserver.protocol.json_types import JsonObject
from homeserver.rate_limits import RateLimits
from homeserver.users.accounts import check_admin, check_not_suspended, check_unlocked
from homeserver.users.sessions import Session, Sessions
from storage.errors import StoreUnavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_TOKEN = 4096
MAX_JSON_DEPTH = 100
"""Objects and lists within one another in a body. What is stored has to be written again, and
canonical JSON, orjson and other servers each end somewhere above."""
_OF_ROOM = re.compile(r"/_matrix/client/\w+/rooms/\{room_id\}/")
"""Routes that write to a room, unless they only read."""
_CLIENT_API = re.compile(r"^/_matrix/client/(?:v3|r0)(?=/)")
BODY_SECONDS = 60.0
"""A body that is read as a whole has to be there by then, the next piece of one that is streamed too."""


class Auth(Enum):
    """Who may call a route."""

    NONE = "anyone"
    OPTIONAL = "anyone, an access token says who"
    USER = "users; not guests"
    GUEST = "users and guests"
    ADMIN = "the server's administrators"


class Answer(NamedTuple):
    """An answer that is more than 200 with a JSON object. `body` is JSON-encoded unless it is bytes."""

    body: object
    status: int = 200
    headers: Mapping[str, str] = {}
    content_type: str = "application/json"


Result = JsonObject | msgspec.Struct | bytes | Answer | web.StreamResponse


class Replicas(Protocol):
    """The other replicas of this server, where there are any."""

    def is_replica(self, request: web.Request) -> bool: ...

    def elsewhere(self, room_id: str) -> str | None: ...

    async def pass_on(
        self, address: str, request: web.Request, body: bytes, client: str
    ) -> web.Response | None: ...

    async def refresh(self, user_id: str, room_id: str | None, all_rooms: bool) -> None:
        """Follow the log to where the user and the room are now: the last request may have been elsewhere."""
        ...


class Gate(NamedTuple):
    """What requests pass before they reach a handler."""

    sessions: Sessions
    limits: RateLimits
    addresses: ClientAddresses
    replicas: Replicas | None


class Call:
    """One request, as handlers see it."""

    __slots__ = ("_gate", "_raw", "_session", "request")

    def __init__(self, request: web.Request, session: Session | None, raw: bytes, gate: Gate) -> None:
        self.request = request
        self._session = session
        self._raw = raw
        self._gate = gate

    @property
    def session(self) -> Session:
        """Who calls; routes of Auth.USER and Auth.GUEST only."""
        assert self._session is not None
        return self._session

    @property
    def optional_session(self) -> Session | None:
        return self._session

    @property
    def user_id(self) -> str:
        return self.session.user_id

    def path(self, name: str) -> str:
        """A path parameter, decoded."""
        return self.request.match_info[name]

    def query(self, name: str) -> str | None:
        return self.request.query.get(name)

    def query_all(self, name: str) -> list[str]:
        return self.request.query.getall(name, [])

    def required_query(self, name: str) -> str:
        value = self.query(name)
        if value is None:
            raise missing_param(f"Missing query parameter: {name}")
        return value

    def int_query(
        self, name: str, default: int | None = None, *, least: int = 0, most: int | None = None
    ) -> int:
        """A whole number, cut to `most`; without a default it must be there.

        Raises 400 M_INVALID_PARAM below `least` or for anything else, and 400 M_MISSING_PARAM.
        """
        text = self.query(name)
        if text is None:
            if default is None:
                raise missing_param(f"Missing query parameter: {name}")
            return default
        if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 18 or int(text) < least:
            raise invalid_param(f"{name}: a whole number of at least {least}")
        value = int(text)
        return value if most is None else min(value, most)

    def bool_query(self, name: str, default: bool = False) -> bool:
        text = self.query(name)
        if text is None:
            return default
        if text not in ("true", "false"):
            raise invalid_param(f"{name}: true or false")
        return text == "true"

    def choice_query(self, name: str, *choices: str) -> str:
        """One of these words, the first if none is given. Raises 400 M_INVALID_PARAM."""
        text = self.query(name) or choices[0]
        if text not in choices:
            raise invalid_param(f"{name}: {' or '.join(choices)}")
        return text

    def json(self, kind: type[T]) -> T:
        """The body as a struct (or JsonObject); an empty body counts as {}.

        Raises 400 M_NOT_JSON, M_BAD_JSON or M_MISSING_PARAM.
        """
        return converted(self.content() if self._raw else {}, kind)

    def content(self) -> JsonObject:
        """The body as a JSON object; it must be there. Raises 400 M_NOT_JSON or M_BAD_JSON."""
        try:
            value = orjson.loads(self._raw)
        except orjson.JSONDecodeError as error:
            raise MatrixError(400, "M_NOT_JSON", "The body is not JSON") from error
        if not isinstance(value, dict):
            raise bad_json("The body must be a JSON object")
        if self._raw.count(b"{") + self._raw.count(b"[") > MAX_JSON_DEPTH:
            try:
                check_depth(value, max_depth=MAX_JSON_DEPTH)
            except InvalidJson as error:
                raise bad_json(str(error)) from error
        return value

    @property
    def raw(self) -> bytes:
        return self._raw

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body piece by piece, for routes that stream it. Raises 408 when no more of it comes."""
        while True:
            async with _arriving():
                chunk = await self.request.content.readany()
            if not chunk:
                return
            yield chunk

    @property
    def address(self) -> str:
        """The client's IP address, "" when there is none."""
        return self._gate.addresses.of(self.request)

    def charge(self, limit: str, cost: int = 1) -> None:
        """Charge a rate limit to the caller: the user, or without one the client's address. Raises 429."""
        caller = self._session.user_id if self._session is not None else subscriber(self.address)
        self._gate.limits.charge(limit, caller, cost)


def converted(content: JsonObject, kind: type[T]) -> T:
    """A JSON object as a struct. Raises 400 M_BAD_JSON or M_MISSING_PARAM."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise _wrong_content(error) from error


def _wrong_content(error: msgspec.ValidationError) -> MatrixError:
    if "missing required field" in str(error):
        return missing_param(str(error))
    return bad_json(str(error))


Handler = Callable[[Any, Call], Awaitable[Result]]
WebHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Options(TypedDict, total=False):
    """What a route may say of itself."""

    auth: Auth
    """Who may call it; Auth.USER unless said."""
    limit: str
    """The rate limit (an option of `rate_limits`) charged to the user, or without one to the address."""
    good_standing: bool
    """Not for suspended accounts (spec: "Account suspension")."""
    while_locked: bool
    """Also for locked accounts (spec: "Account locking")."""
    quick: bool
    """The handler makes at most one change, which a vanished client cannot cut in half."""
    streams: bool
    """The handler reads the body itself."""
    all_rooms: bool
    """Looks at all rooms of the user, whose newest changes may have been made at other replicas."""


class Route(NamedTuple):
    method: str
    path: str
    name: str
    options: Options


def route(method: str, *paths: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
    """Declare a handler for one or more paths."""

    def declare(handler: Handler) -> Handler:
        declared: list[Route] = getattr(handler, "weft_routes", [])
        for path in paths:
            full = (path,) if path.startswith(("/_", "/.")) else versions_of(path)
            declared.extend(Route(method, p, handler.__name__, options) for p in full)
        handler.weft_routes = declared  # type: ignore[attr-defined]
        return handler

    return declare


def versions_of(path: str) -> tuple[str, str]:
    return f"/_matrix/client/v3{path}", f"/_matrix/client/r0{path}"


def get(*paths: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
    options.setdefault("quick", True)
    return route("GET", *paths, **options)


def put(*paths: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
    return route("PUT", *paths, **options)


def post(*paths: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
    return route("POST", *paths, **options)


def delete(*paths: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
    return route("DELETE", *paths, **options)


class Routes:
    """Base of the modules of routes."""

    def routes(self) -> list[tuple[Route, Callable[[Call], Awaitable[Result]]]]:
        found: list[tuple[Route, Callable[[Call], Awaitable[Result]]]] = []
        for name, attribute in vars(type(self)).items():
            for declared in getattr(attribute, "weft_routes", []):
                found.append((declared, getattr(self, name)))
        return found


def mount(app: web.Application, modules: Iterable[Routes], gate: Gate, requests: Requests) -> None:
    """Serve all routes of all modules by an application; `requests` counts what they answer."""
    paths: Paths[dict[str, WebHandler]] = Paths()
    for module in modules:
        for declared, handler in module.routes():
            counted = requests.of(_CLIENT_API.sub("", declared.path), declared.method)
            served = _counted(_serve(declared, handler, gate), counted)
            methods = paths.at(declared.path, {})
            methods[declared.method] = served
            if declared.method == "GET":
                methods["HEAD"] = served
    unknown = requests.of("unknown", "any")
    other_method, unknown_path = _counted(_other_method, unknown), _counted(_unknown_path, unknown)

    async def serve(request: web.Request) -> web.StreamResponse:
        found = paths.find(request.rel_url.path_safe)
        if found is None:
            return await unknown_path(request)
        methods, parameters = found
        request.match_info.update(parameters)
        return await methods.get(request.method, other_method)(request)

    app.router.add_route("*", "/{path:(?s:.*)}", serve)


def _counted(handler: WebHandler, route: Metered) -> WebHandler:
    """The same handler; its answers are counted. Those that nobody waits for any more are not."""

    async def answer(request: web.Request) -> web.StreamResponse:
        began = perf_counter()
        response = await handler(request)
        route.answered(response.status, perf_counter() - began)
        return response

    return answer


def _serve(declared: Route, handler: Callable[[Call], Awaitable[Result]], gate: Gate) -> WebHandler:
    options = declared.options
    auth = options.get("auth", Auth.USER)
    limit = gate.limits[options["limit"]] if "limit" in options else None
    good_standing = options.get("good_standing", False)
    while_locked = options.get("while_locked", False)
    streams = options.get("streams", False)
    whole = not (options.get("quick", False) or streams)
    reads_body = declared.method in ("PUT", "POST", "DELETE") and not streams
    tells = declared.method == "GET"
    sessions = gate.sessions
    owners = gate.replicas if reads_body and _OF_ROOM.match(declared.path) else None
    followed = gate.replicas if tells else None
    all_rooms = options.get("all_rooms", False)

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            if owners is not None and (response := await _passed_on(request, owners, gate.addresses)):
                return response
            session = None
            if auth is not Auth.NONE:
                session = await _session_of(request, sessions, auth)
                if session is not None:
                    if not while_locked:
                        check_unlocked(session.account)
                    if good_standing:
                        check_not_suspended(session.account)
            if limit is not None:
                limit.charge(
                    session.user_id if session is not None else subscriber(gate.addresses.of(request))
                )
            if followed is not None and session is not None:
                await followed.refresh(session.user_id, request.match_info.get("room_id"), all_rooms)
            check_coding(request)
            raw = await _whole_body(request) if reads_body else b""
            call = Call(request, session, raw, gate)
            if whole:
                result = await _to_its_end(handler(call), declared)
            else:
                result = await handler(call)
            if session is not None:
                if tells:
                    # What was gathered while the session was being ended is no longer for its device.
                    session = await sessions.confirm(session)
                    if not while_locked:
                        check_unlocked(session.account)
                if sessions.unseen(session):
                    sessions.seen(session, gate.addresses.of(request), request.headers.get("User-Agent"))
            return result if isinstance(result, web.StreamResponse) else response_of(result)
        except Exception as error:
            return error_response(error, declared)

    return answer


async def _to_its_end(handling: Awaitable[Result], declared: Route) -> Result:
    """What a handler returns, whom a client that hangs up must not stop half-way."""
    task = asyncio.ensure_future(handling)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda ended: _answer_nobody(ended, declared))
        raise


def _answer_nobody(ended: asyncio.Future[Result], declared: Route) -> None:
    """An error of which no client is told any more: only what nobody foresaw is logged."""
    if not ended.cancelled() and isinstance(error := ended.exception(), Exception):
        error_response(error, declared)


async def _passed_on(
    request: web.Request, owners: Replicas, addresses: ClientAddresses
) -> web.Response | None:
    """The answer of the replica that owns the room; None when this one is to do it."""
    owner = owners.elsewhere(request.match_info["room_id"])
    if owner is None or owners.is_replica(request):
        return None
    check_coding(request)
    return await owners.pass_on(owner, request, await _whole_body(request), addresses.of(request))


def check_coding(request: web.Request) -> None:
    """Raises 415 for a body in a content coding: a small one could be inflated to any size."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise MatrixError(415, "M_UNKNOWN", "Send the body as it is, without a Content-Encoding")


async def _whole_body(request: web.Request) -> bytes:
    """Raises 413 M_TOO_LARGE, 408 if the body does not come, 400 if it comes broken."""
    if request.content_length is not None and request.content_length > request.client_max_size:
        raise too_large("The request body is too large")
    if request.content.is_eof():
        return await request.read()
    async with _arriving():
        return await request.read()


@asynccontextmanager
async def _arriving() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            yield
    except TimeoutError as error:
        raise MatrixError(408, "M_UNKNOWN", "The request body did not come in time") from error
    except web.RequestPayloadError as error:
        raise MatrixError(400, "M_UNKNOWN", "The request body is broken off or malformed") from error


async def _session_of(request: web.Request, sessions: Sessions, auth: Auth) -> Session | None:
    header = request.headers.get("Authorization")
    token = header[7:] if header is not None and header.startswith("Bearer ") else None
    if token is None:
        # Gone from the specification after v1.19, which is what this server speaks.
        token = request.query.get("access_token")
    if not token:
        if auth is Auth.OPTIONAL:
            return None
        raise MatrixError(401, "M_MISSING_TOKEN", "Missing access token")
    if len(token) > MAX_TOKEN:
        raise MatrixError(401, "M_UNKNOWN_TOKEN", "Unknown access token", soft_logout=False)
    session = await sessions.authenticate(token)
    if session.account.is_guest and auth is Auth.USER:
        raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests may not do this")
    if auth is Auth.ADMIN:
        check_admin(session.account)
    return session


def _plain(value: object) -> object:
    """Quantities of the configuration are numbers of their own types; elsewhere they are just numbers."""
    if isinstance(value, int):
        return int(value)
    raise NotImplementedError(type(value))


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


def response_of(result: Result) -> web.StreamResponse:
    """The HTTP response of what a handler returned."""
    if isinstance(result, Answer):
        body = result.body if isinstance(result.body, bytes) else _encode(result.body)
        if not result.headers and result.content_type == "application/json":
            return JsonResponse(body, result.status)
        headers = CIMultiDict(CORS)
        headers.update(result.headers)
        return web.Response(
            body=body, status=result.status, headers=headers, content_type=result.content_type
        )
    return JsonResponse(result if isinstance(result, bytes) else _encode(result))


def error_response(error: Exception, declared: Route) -> web.StreamResponse:
    """The Matrix error for whatever a route's handler raised; what nobody foresaw is logged, a 500."""
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        error = too_large("The request body is too large")
    elif isinstance(error, InvalidIdentifier):
        error = invalid_param(str(error))
    elif isinstance(error, StoreUnavailable):
        # What it says of databases and disks is for the log alone.
        log.warning("the store fails", route=declared.path, error=str(error))
        error = unavailable("The store cannot do it now")
    elif not isinstance(error, MatrixError):
        log.error("request failed", method=declared.method, route=declared.path, exc_info=error)
        error = MatrixError(500, "M_UNKNOWN", "Internal server error")
    return refusal(error)


def refusal(error: MatrixError) -> web.StreamResponse:
    """The HTTP response that says a Matrix error."""
    standard = {"errcode": error.errcode, "error": error.error} if error.errcode else {}
    body = orjson.dumps({**standard, **error.extra})
    retry_after_ms = error.extra.get("retry_after_ms")
    headers = {"Retry-After": str(-(-retry_after_ms // 1000))} if isinstance(retry_after_ms, int) else {}
    return response_of(Answer(body, error.status, headers))


async def _other_method(request: web.Request) -> web.StreamResponse:
    if request.method == "OPTIONS":
        return web.Response(status=204, headers=CORS)
    return refusal(MatrixError(405, "M_UNRECOGNIZED", "Unrecognized method"))


async def _unknown_path(request: web.Request) -> web.StreamResponse:
    if request.method == "OPTIONS":
        return web.Response(status=204, headers=CORS)
    return refusal(MatrixError(404, "M_UNRECOGNIZED", "Unrecognized request"))
