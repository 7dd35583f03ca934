"""The response that nearly every request gets: JSON that is there as a whole, written at once.

aiohttp's own `Response` gathers headers in a multidict and writes them out one by one, for each answer
anew, which takes as long as a /sync without news. Here all but the length is made once a second for all
answers of a status, and goes out with the body in one piece.
"""

import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE, HttpVersion11

CORS: Mapping[str, str] = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization, Date",
    "Access-Control-Expose-Headers": "Synapse-Trace-Id, Server, ETag, Retry-After",
}
"""What the specification wants on every answer (spec: client-server "Web Browser Clients")."""


class JsonResponse(web.StreamResponse):
    """An answer with a JSON body and no headers of its own."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        super().__init__(status=status)
        self._json = body
        self._lasts = True

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open for another request."""
        return self._lasts

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Write all of it."""
        body = self._json
        self._lasts = request.keep_alive
        if not self._lasts:
            connection = b"\r\nConnection: close"
        elif request.version < HttpVersion11:
            connection = b"\r\nConnection: keep-alive"
        else:
            connection = b""
        written = b"%b%d%b\r\n\r\n%b" % (
            _heads.of(self.status),
            len(body),
            connection,
            body if request.method != "HEAD" else b"",
        )
        await request.writer.write(written)
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


class _Heads:
    """What comes before the length of the body, by status."""

    def __init__(self) -> None:
        self._second = 0
        self._made: dict[int, bytes] = {}

    def of(self, status: int) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._made = second, {}
        head = self._made.get(status)
        if head is None:
            headers = {
                **CORS,
                "Content-Type": "application/json",
                "Date": formatdate(second, usegmt=True),
                "Server": SERVER_SOFTWARE,
            }
            lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            head = self._made[status] = ("\r\n".join(lines) + "\r\nContent-Length: ").encode()
        return head


_heads = _Heads()
