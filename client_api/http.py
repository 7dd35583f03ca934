"""How routes of the client-server API are declared and served.

A module of routes is a class whose decorated methods are handlers:

    class Typing(Routes):
        @put("/rooms/{room_id}/typing/{user_id}")
        async def set_typing(self, call: Call) -> Answer: ...

Paths are relative to `/_matrix/client/v3` unless they begin with `/_`, and have other names (`names_of`).

Before its handler a request passes the `Gate`: who calls, whether that account may do this now
(guests, locked and suspended accounts), and whether the rate limit that the route names has room.
All of it comes before the body is read.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterable
from enum import Enum
from typing import NamedTuple, Protocol, TypedDict, Unpack

from aiohttp import web

from homeserver.errors import MatrixError, forbidden
from homeserver.rate_limits import RateLimits
from homeserver.users.accounts import check_admin, check_not_suspended, check_unlocked
from homeserver.users.sessions import Session, Sessions
from rest.answers import error_response, response_of, to_its_end
from rest.bodies import check_coding, pieces, whole_body
from rest.call import Call as AnyCall
from rest.client_address import ClientAddresses, subscriber
from rest.routes import PARAMETERS, Api, BoundHandler, Handler, Routes, WebHandler, declare
from rest.routes import Route as AnyRoute

MAX_TOKEN = 4096
_OF_ROOM = re.compile(r"/_matrix/client/\w+/rooms/\{room_id\}/")
"""Routes that write to a room, unless they only read."""
_V3 = "/_matrix/client/v3"
_FORMER = {f"{_V3}/refresh": "/_matrix/client/v1/refresh"}
"""Paths that had another number in the proposal, where apps still use that: Element for iOS."""
_STABLE = re.compile(r"(?P<api>/_matrix/(?:client|media))/(?P<version>v1|v3)(?P<path>/.*)")


class Auth(Enum):
    """Who may call a route."""

    NONE = "anyone"
    OPTIONAL = "anyone, an access token says who"
    USER = "users; not guests"
    GUEST = "users and guests"
    ADMIN = "the server's administrators"


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


class Call(AnyCall):
    """One request of a client, as handlers see it."""

    __slots__ = ("_gate", "_session")

    def __init__(self, request: web.Request, session: Session | None, raw: bytes, gate: Gate) -> None:
        super().__init__(request, raw)
        self._session = session
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

    def check_own(self) -> None:
        """Raises 403 unless the user whom the path names is who calls."""
        if self.path("user_id") != self.user_id:
            raise forbidden("The path names another user")

    def chunks(self) -> AsyncIterator[bytes]:
        """The body piece by piece, for routes that stream it. Raises 408 when no more of it comes."""
        return pieces(self.request)

    @property
    def address(self) -> str:
        """The client's IP address, "" when there is none."""
        return self._gate.addresses.of(self.request)

    def charge(self, limit: str, cost: int = 1) -> None:
        """Charge a rate limit to the caller: the user, or without one the client's address. Raises 429."""
        caller = self._session.user_id if self._session is not None else subscriber(self.address)
        self._gate.limits.charge(limit, caller, cost)


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


Route = AnyRoute[Options]


def route(method: str, *paths: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
    """Declare a handler for one or more paths."""
    full = [path if path.startswith(("/_", "/.")) else _V3 + path for path in paths]
    return declare(method, full, options)


def names_of(path: str) -> list[str]:
    """A declared path, and what clients call it that were written before it had this name.

    Element for Android and for iOS still ask for keys, key backups and relations under `unstable`.
    """
    names = [path]
    if path in _FORMER:
        names.append(_FORMER[path])
    if stable := _STABLE.match(path):
        old = ("unstable", "r0") if stable["version"] == "v3" else ("unstable",)
        names += [f"{stable['api']}/{version}{stable['path']}" for version in old]
    return names


def get(*paths: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
    options.setdefault("quick", True)
    return route("GET", *paths, **options)


def put(*paths: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
    return route("PUT", *paths, **options)


def post(*paths: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
    return route("POST", *paths, **options)


def delete(*paths: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
    return route("DELETE", *paths, **options)


def client_server_api(modules: Iterable[Routes], gate: Gate) -> Api:
    """The API of these modules, behind a gate."""

    def serve(declared: Route, handler: BoundHandler) -> WebHandler:
        return _serve(declared, handler, gate)

    return Api(modules, serve, names_of, shown=lambda path: path.removeprefix(_V3))


def _serve(declared: Route, handler: BoundHandler, gate: Gate) -> WebHandler:
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
                await followed.refresh(session.user_id, request[PARAMETERS].get("room_id"), all_rooms)
            check_coding(request)
            raw = await whole_body(request) if reads_body else b""
            call = Call(request, session, raw, gate)
            if whole:
                result = await to_its_end(handler(call), declared.method, declared.path)
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
            return error_response(error, declared.method, declared.path)

    return answer


async def _passed_on(
    request: web.Request, owners: Replicas, addresses: ClientAddresses
) -> web.Response | None:
    """The answer of the replica that owns the room; None when this one is to do it."""
    owner = owners.elsewhere(request[PARAMETERS]["room_id"])
    if owner is None or owners.is_replica(request):
        return None
    check_coding(request)
    return await owners.pass_on(owner, request, await whole_body(request), addresses.of(request))


def bearer_token(request: web.Request) -> str | None:
    """The access token that a request comes with, if any."""
    header = request.headers.get("Authorization")
    if header is not None and header.startswith("Bearer "):
        return header[7:]
    # Gone from the specification after v1.19, which is what this server speaks.
    return request.query.get("access_token")


async def _session_of(request: web.Request, sessions: Sessions, auth: Auth) -> Session | None:
    token = bearer_token(request)
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
