"""How routes are declared and served, whatever is asked of those who call them.

A module of routes is a class whose handlers are decorated by what its API has for that (`declare`). An
`Application` serves them with the answers that the spec wants around them: CORS on everything, 404 and 405
as M_UNRECOGNIZED before any authentication (spec: client-server "API Standards").

aiohttp's own application and router stay out of it: they take a tenth of the time of a /sync without news.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter
from typing import Any, Generic, NamedTuple, TypeVar

from aiohttp import web

from homeserver.errors import MatrixError
from homeserver.metrics import Metered, Requests
from rest.answers import Result, refusal
from rest.bodies import go_on
from rest.json_response import CORS
from rest.paths import Paths

PARAMETERS = web.RequestKey("parameters", dict[str, str])
"""What of a request holds the parameters in its path, decoded."""

OptionsT = TypeVar("OptionsT")
"""Options that a route may have."""

Handler = Callable[[Any, Any], Awaitable[Result]]
"""A method of a module of routes: takes the call of its API."""
BoundHandler = Callable[[Any], Awaitable[Result]]
WebHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Route(NamedTuple, Generic[OptionsT]):
    method: str
    path: str
    name: str
    options: OptionsT


Serve = Callable[[Route[Any], BoundHandler], WebHandler]
"""What an API does around a handler: who calls, the body, the answer."""


def declare(method: str, paths: Sequence[str], options: OptionsT) -> Callable[[Handler], Handler]:
    """Declare a handler for one or more whole paths."""

    def declared(handler: Handler) -> Handler:
        routes: list[Route[OptionsT]] = getattr(handler, "weft_routes", [])
        routes.extend(Route(method, path, handler.__name__, options) for path in paths)
        handler.weft_routes = routes  # type: ignore[attr-defined]
        return handler

    return declared


class Routes:
    """Base of the modules of routes."""

    def routes(self) -> list[tuple[Route[Any], BoundHandler]]:
        found: list[tuple[Route[Any], BoundHandler]] = []
        for name, attribute in vars(type(self)).items():
            for declared in getattr(attribute, "weft_routes", []):
                found.append((declared, getattr(self, name)))
        return found


class Api(NamedTuple):
    """The modules of one API and how it serves them."""

    modules: Iterable[Routes]
    serve: Serve
    names: Callable[[str], Sequence[str]] = lambda path: (path,)
    """All paths that a declared one is served under."""
    shown: Callable[[str], str] = str
    """How a path is written where answers are counted."""


class Application(NamedTuple):
    """What answers all requests that come to a listener, and how many bytes their bodies may have."""

    answer: WebHandler
    max_body: int = 1024 * 1024


def answering(apis: Iterable[Api], requests: Requests) -> WebHandler:
    """Serves all routes of some APIs; `requests` counts what they answer."""
    paths: Paths[dict[str, WebHandler]] = Paths()
    for api in apis:
        for module in api.modules:
            for declared, handler in module.routes():
                counted = requests.of(api.shown(declared.path), declared.method)
                served = _counted(api.serve(declared, handler), counted)
                for path in api.names(declared.path):
                    methods = paths.at(path, {})
                    methods[declared.method] = served
                    if declared.method == "GET":
                        methods["HEAD"] = served
    unknown = requests.of("unknown", "any")
    other_method, unknown_path = _counted(_other_method, unknown), _counted(_unknown_path, unknown)

    async def find(request: web.Request) -> web.StreamResponse:
        if "Expect" in request.headers:
            await go_on(request)
        found = paths.find(request.rel_url.path_safe)
        if found is None:
            return await unknown_path(request)
        methods, request[PARAMETERS] = found
        return await methods.get(request.method, other_method)(request)

    return find


def _counted(handler: WebHandler, route: Metered) -> WebHandler:
    """The same handler; its answers are counted. Those that nobody waits for any more are not."""

    async def answer(request: web.Request) -> web.StreamResponse:
        began = perf_counter()
        response = await handler(request)
        route.answered(response.status, perf_counter() - began)
        return response

    return answer


async def _other_method(request: web.Request) -> web.StreamResponse:
    if request.method == "OPTIONS":
        return web.Response(status=204, headers=CORS)
    return refusal(MatrixError(405, "M_UNRECOGNIZED", "Unrecognized method"))


async def _unknown_path(request: web.Request) -> web.StreamResponse:
    if request.method == "OPTIONS":
        return web.Response(status=204, headers=CORS)
    return refusal(MatrixError(404, "M_UNRECOGNIZED", "Unrecognized request"))
