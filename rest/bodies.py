"""Bodies of requests: read within bounds of size and time, and taken for what they should be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import orjson
from aiohttp import web
from aiohttp.http import HttpVersion11

from homeserver.errors import MatrixError, bad_json, missing_param, too_large
from homeserver.protocol.canonical_json import InvalidJson, check_depth
from homeserver.protocol.json_types import JsonObject

T = TypeVar("T")

_decoders: dict[type, msgspec.json.Decoder[Any]] = {}

_BODY = web.RequestKey("body", bytes)

MAX_JSON_DEPTH = 100
"""Objects and lists within one another. What is stored has to be written again, and canonical JSON,
orjson and other servers each end somewhere above."""
BODY_SECONDS = 60.0
"""A body that is read as a whole has to be there by then, the next piece of one that is streamed too."""


def check_coding(request: web.Request) -> None:
    """Raises 415 for a body in a content coding: a small one could be inflated to any size."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise MatrixError(415, "M_UNKNOWN", "Send the body as it is, without a Content-Encoding")


async def go_on(request: web.Request) -> None:
    """Have a client send the body that it holds back until it is told to (RFC 9110, section 10.1.1)."""
    if request.version >= HttpVersion11 and request.headers["Expect"].lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


async def whole_body(request: web.Request) -> bytes:
    """Raises 413 M_TOO_LARGE, 408 if the body does not come, 400 if it comes broken."""
    if request.content_length is not None and request.content_length > request.client_max_size:
        raise too_large("The request body is too large")
    if _BODY not in request:
        if request.content.is_eof() and request.content_length is not None:
            # What is there already is taken at once, not piece by piece.
            request[_BODY] = request.content.read_nowait()
        else:
            async with _arriving():
                request[_BODY] = await request.read()
    return request[_BODY]


@asynccontextmanager
async def _arriving() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            yield
    except TimeoutError as error:
        raise MatrixError(408, "M_UNKNOWN", "The request body did not come in time") from error
    except web.RequestPayloadError as error:
        raise MatrixError(400, "M_UNKNOWN", "The request body is broken off or malformed") from error


async def pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body piece by piece. Raises 408 when no more of it comes."""
    while True:
        async with _arriving():
            chunk = await request.content.readany()
        if not chunk:
            return
        yield chunk


def json_object(raw: bytes) -> JsonObject:
    """The body as a JSON object; it must be there. Raises 400 M_NOT_JSON or M_BAD_JSON."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _not_json() from error
    if not isinstance(value, dict):
        raise bad_json("The body must be a JSON object")
    if raw.count(b"{") + raw.count(b"[") > MAX_JSON_DEPTH:
        try:
            check_depth(value, max_depth=MAX_JSON_DEPTH)
        except InvalidJson as error:
            raise bad_json(str(error)) from error
    return value


def decoded(raw: bytes, kind: type[T]) -> T:
    """The body as a struct that leaves nothing open, straight from its bytes.

    In one with parts that may be anything nothing would bound their depth. Raises 400 M_NOT_JSON,
    M_BAD_JSON or M_MISSING_PARAM.
    """
    decoder: msgspec.json.Decoder[T] | None = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        return decoder.decode(raw.decode())
    except msgspec.ValidationError as error:
        raise _wrong_content(error) from error
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise _not_json() from error


def converted(content: JsonObject, kind: type[T]) -> T:
    """A JSON object as a struct. Raises 400 M_BAD_JSON or M_MISSING_PARAM."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise _wrong_content(error) from error


def _not_json() -> MatrixError:
    return MatrixError(400, "M_NOT_JSON", "The body is not JSON")


def _wrong_content(error: msgspec.ValidationError) -> MatrixError:
    if "missing required field" in str(error):
        return missing_param(str(error))
    return bad_json(str(error))
