"""How HTTP connections are served: what aiohttp is told so that no client can hold on to the server.

Its parser bounds the request line, each header and their number, and keeps few pipelined requests. Here
are the rest: how long a connection may be idle (a request whose headers do not come to an end counts as
idle), that bodies are never inflated (`client_api.http.check_coding` refuses them), and that rubbish from
outside is not logged as if it were a fault of ours.
"""

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

IDLE_SECONDS = 150.0
"""Longer than reverse proxies keep theirs (nginx 60 s, Traefik 90 s, Caddy 120 s): a server that hangs up
first makes them fail the request that they were just sending."""


class _OurFaults(logging.Filter):
    """Lets everything pass but malformed requests: those are answered 400, and anyone can send them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_log = logging.getLogger("weft.http")
_log.addFilter(_OurFaults())


def runner_of(app: web.Application) -> web.AppRunner:
    """What serves an application, still without an address to listen on."""
    return web.AppRunner(
        app,
        access_log=None,
        logger=_log,
        # Otherwise a closed long-poll would live on until it times out.
        handler_cancellation=True,
        keepalive_timeout=IDLE_SECONDS,
        auto_decompress=False,
    )
