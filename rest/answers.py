"""Answers: what handlers return, and what becomes of their errors, in the one form of the specification.

spec: client-server "API Standards"
"""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import NamedTuple

import msgspec
import orjson
import structlog
from aiohttp import web
from multidict import CIMultiDict

from homeserver.errors import MatrixError, invalid_param, too_large, unavailable
from homeserver.protocol.identifiers import InvalidIdentifier
from homeserver.protocol.json_types import JsonObject
from rest.json_response import CORS, JsonResponse
from storage.errors import StoreUnavailable

log = structlog.get_logger(__name__)


class Answer(NamedTuple):
    """An answer that is more than 200 with a JSON object. `body` is JSON-encoded unless it is bytes."""

    body: object
    status: int = 200
    headers: Mapping[str, str] = {}
    content_type: str = "application/json"


Result = JsonObject | msgspec.Struct | bytes | Answer | web.StreamResponse


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


async def to_its_end(handling: Awaitable[Result], method: str, path: str) -> Result:
    """What a route's handler returns, whom a caller that hangs up must not stop half-way."""
    task = asyncio.ensure_future(handling)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda ended: _answer_nobody(ended, method, path))
        raise


def _answer_nobody(ended: asyncio.Future[Result], method: str, path: str) -> None:
    """An error of which no caller is told any more: only what nobody foresaw is logged."""
    if not ended.cancelled() and isinstance(error := ended.exception(), Exception):
        error_response(error, method, path)


def error_response(error: Exception, method: str, path: str) -> web.StreamResponse:
    """The Matrix error for whatever a route's handler raised; what nobody foresaw is logged, a 500."""
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        error = too_large("The request body is too large")
    elif isinstance(error, InvalidIdentifier):
        error = invalid_param(str(error))
    elif isinstance(error, StoreUnavailable):
        # What it says of databases and disks is for the log alone.
        log.warning("the store fails", route=path, error=str(error))
        error = unavailable("The store cannot do it now")
    elif not isinstance(error, MatrixError):
        log.error("request failed", method=method, route=path, exc_info=error)
        error = MatrixError(500, "M_UNKNOWN", "Internal server error")
    return refusal(error)


def refusal(error: MatrixError) -> web.StreamResponse:
    """The HTTP response that says a Matrix error."""
    standard = {"errcode": error.errcode, "error": error.error} if error.errcode else {}
    body = orjson.dumps({**standard, **error.extra})
    retry_after_ms = error.extra.get("retry_after_ms")
    headers = {"Retry-After": str(-(-retry_after_ms // 1000))} if isinstance(retry_after_ms, int) else {}
    return response_of(Answer(body, error.status, headers))
