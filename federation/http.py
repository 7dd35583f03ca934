"""How routes of the server-server API are declared and served.

A module of routes is a class whose decorated methods are handlers:

    class QueryRoutes(Routes):
        @get("/_matrix/federation/v1/query/profile")
        async def profile(self, call: Call) -> Result: ...

A request is found its route first, then the server that signed it (spec: server-server "Request
Authentication"). The signature is over the content, so the body is read before it is known who sent it:
bounds of size and time hold for everybody, and whoever signs nothing is refused without.
"""

from collections.abc import Callable, Iterable
from enum import Enum
from typing import TypedDict, Unpack

from aiohttp import web

from federation.limited_authenticator import LimitedAuthenticator
from homeserver.protocol.json_types import JsonObject
from rest.answers import error_response, response_of, to_its_end
from rest.bodies import check_coding, json_object, whole_body
from rest.call import Call as AnyCall
from rest.routes import Api, BoundHandler, Handler, Routes, WebHandler, declare
from rest.routes import Route as AnyRoute

MAX_BODY = 1024 * 1024
"""Bytes of a request: of an event with what goes with it, or of a query about many users."""


class Auth(Enum):
    """Who may call a route."""

    NONE = "anyone"
    SERVER = "the server that signed the request"


class Options(TypedDict, total=False):
    """What a route may say of itself."""

    auth: Auth
    """Who may call it; Auth.SERVER unless said."""
    largest: int
    """Bytes that the body may have; MAX_BODY unless said."""


Route = AnyRoute[Options]


class Call(AnyCall):
    """One request of another server, as handlers see it."""

    __slots__ = ("_authenticator", "_content", "_origin")

    def __init__(
        self,
        request: web.Request,
        origin: str | None,
        raw: bytes,
        content: JsonObject | None,
        authenticator: LimitedAuthenticator | None,
    ) -> None:
        super().__init__(request, raw)
        self._origin = origin
        self._content = content
        self._authenticator = authenticator

    @property
    def origin(self) -> str:
        """The name of the server that asks; routes of Auth.SERVER only."""
        assert self._origin is not None
        return self._origin

    def charge(self, cost: int) -> None:
        """Have somebody who proves nothing pay for what they ask. Raises 429 M_LIMIT_EXCEEDED."""
        if self._authenticator is not None:
            self._authenticator.charge(self.request, cost)

    def content(self) -> JsonObject:
        """What was signed is what is read."""
        return self._content if self._content is not None else super().content()


def get(*paths: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
    return declare("GET", paths, options)


def put(*paths: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
    return declare("PUT", paths, options)


def post(*paths: str, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
    return declare("POST", paths, options)


def server_server_api(modules: Iterable[Routes], authenticator: LimitedAuthenticator | None) -> Api:
    """The API of these modules, for servers that prove to it who they are.

    Without one anyone may call all of their routes.
    """

    def serve(declared: Route, handler: BoundHandler) -> WebHandler:
        return _serve(declared, handler, authenticator)

    return Api(modules, serve)


def _serve(declared: Route, handler: BoundHandler, authenticator: LimitedAuthenticator | None) -> WebHandler:
    options = declared.options
    signed = options.get("auth", Auth.SERVER) is Auth.SERVER
    assert authenticator is not None or not signed, f"nobody can be let in at {declared.path}"
    largest = options.get("largest", MAX_BODY)
    changes = declared.method != "GET"

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            if signed and authenticator is not None:
                authenticator.charge(request)
            check_coding(request)
            headers = request.headers.getall("Authorization", [])
            raw = b""
            if changes and (headers or not signed):
                raw = await whole_body(request.clone(client_max_size=largest))
            content = json_object(raw) if raw else None
            origin = None
            if signed and authenticator is not None:
                origin = await authenticator.origin(request, headers, content)
            handling = handler(Call(request, origin, raw, content, authenticator))
            result = await (to_its_end(handling, declared.method, declared.path) if changes else handling)
            return result if isinstance(result, web.StreamResponse) else response_of(result)
        except Exception as error:
            return error_response(error, declared.method, declared.path)

    return answer
