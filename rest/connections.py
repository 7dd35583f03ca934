"""How HTTP connections are served: what aiohttp is told so that no client can hold on to the server.

Its parser bounds the request line, each header and their number, and keeps few pipelined requests. Here
are the rest: how long a connection may be idle (a request whose headers do not come to an end counts as
idle), that bodies are never inflated (`rest.bodies.check_coding` refuses them), and that what is not
HTTP gets a Matrix error as everything else does, and is not logged as if it were a fault of ours.
"""

import logging
from asyncio import get_running_loop
from functools import partial

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from homeserver.errors import MatrixError
from rest.answers import refusal
from rest.routes import Application

IDLE_SECONDS = 150.0
"""Longer than reverse proxies keep theirs (nginx 60 s, Traefik 90 s, Caddy 120 s): a server that hangs up
first makes them fail the request that they were just sending."""

MAX_LINE = 16 * 1024
"""Bytes: the since-token of a store with 1,024 room shards has half of them."""


class _OurFaults(logging.Filter):
    """Lets everything pass but malformed requests: those are answered 400, and anyone can send them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_log = logging.getLogger("weft.http")
_log.addFilter(_OurFaults())


class _Connection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be read as a request; then the connection ends.

        It repeats nothing of what came: that may be half an access token.
        """
        if not isinstance(exc, HttpProcessingError) or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        error = MatrixError(400, "M_UNKNOWN", "This is not an HTTP request, or a malformed one")
        if isinstance(exc, LineTooLong):
            error = MatrixError(431, "M_TOO_LARGE", "The request line or a header is too long")
        response = refusal(error)
        response.force_close()
        return response


class _Server(web.Server):
    """Takes connections."""

    def __call__(self) -> _Connection:
        return _Connection(self, loop=self._loop, **self._kwargs)


def runner_of(application: Application) -> web.ServerRunner:
    """What serves an application, still without an address to listen on; there is a running event loop."""
    server = _Server(
        application.answer,  # type: ignore[arg-type]  # It gets what the next line makes.
        request_factory=partial(web.Request, loop=get_running_loop(), client_max_size=application.max_body),
        access_log=None,
        logger=_log,
        # Otherwise a closed long-poll would live on until it times out.
        handler_cancellation=True,
        keepalive_timeout=IDLE_SECONDS,
        max_line_size=MAX_LINE,
        auto_decompress=False,
    )
    return web.ServerRunner(server)
