"""A lean HTTP/1.1 client for load: one keep-alive connection, one request at a time, callbacks.

Requests come preformatted as bytes. Of an answer only its end is looked for (Content-Length or
chunks); the time of its last byte is taken before anything else is done with it, so the driver's own
work stays out of the latency as far as one process can keep it out.
"""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, cast

_CONNECT_AT_ONCE = 100
_MAX_HEAD = 64 * 1024


class Response(NamedTuple):
    """An answer. `status` 0 says that there was none, and `body` why; `at` is `time.perf_counter()`."""

    status: int
    body: bytes
    at: float


class Connection(asyncio.Protocol):
    """One connection. `send` a request, get its `Response` in the callback, then the next."""

    __slots__ = ("_body", "_buffer", "_callback", "_chunked", "_end", "_start", "_status", "_transport")

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._callback: Callable[[Response], None] | None = None
        self._buffer = bytearray()
        self._body = bytearray()  # of a chunked answer, what was decoded so far
        self._status = 0
        self._start = 0  # where the body, or the next chunk, begins in the buffer
        self._end = 0  # where the body ends in the buffer; 0: the head is not complete
        self._chunked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own does not derive from it

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes, callback: Callable[[Response], None]) -> None:
        """Writes a request. The callback is called exactly once, also when the connection breaks."""
        assert self._callback is None, "one request at a time"
        self._callback = callback
        if self._transport is None or not self.is_open:
            self._finish(Response(0, b"the connection is closed", time.perf_counter()))
        else:
            self._transport.write(request)

    def request(self, request: bytes) -> asyncio.Future[Response]:
        """Sends a request; the future holds its answer and never fails."""
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def answered(response: Response) -> None:
            if not future.done():
                future.set_result(response)

        self.send(request, answered)
        return future

    def close(self) -> None:
        """Hangs up. A request still waiting is dropped without its callback."""
        self._callback = None
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        at = time.perf_counter()
        buffer = self._buffer
        buffer += data
        if not self._end and not self._read_head():
            if len(buffer) > _MAX_HEAD:
                self._broken("the head of an answer is too long")
            return
        if self._chunked:
            if not self._read_chunks():
                return
            body = bytes(self._body)
            self._body.clear()
        elif len(buffer) < self._end:
            return
        else:
            body = bytes(buffer[self._start : self._end])
        surplus = len(buffer) > self._end
        buffer.clear()
        self._end = 0
        if surplus:
            self._broken("bytes after the end of an answer")
        else:
            self._finish(Response(self._status, body, at))

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(Response(0, f"the connection was lost ({exc})".encode(), time.perf_counter()))

    def _read_head(self) -> bool:
        stop = self._buffer.find(b"\r\n\r\n")
        if stop < 0:
            return False
        head = bytes(self._buffer[: stop + 2]).lower()
        self._status = int(head[9:12])
        self._start = stop + 4
        self._chunked = b"\r\ntransfer-encoding: chunked\r\n" in head
        at = head.find(b"\r\ncontent-length:")
        length = int(head[at + 17 : head.index(b"\r\n", at + 17)]) if at >= 0 else 0
        self._end = self._start + length
        return True

    def _read_chunks(self) -> bool:
        buffer = self._buffer
        while (line := buffer.find(b"\r\n", self._start)) >= 0:
            size = int(buffer[self._start : line], 16)
            after = line + 2 + size + 2
            if len(buffer) < after:
                return False
            self._start = self._end = after
            if size == 0:
                return True
            self._body += buffer[line + 2 : after - 2]
        return False

    def _broken(self, why: str) -> None:
        self._finish(Response(0, why.encode(), time.perf_counter()))
        self.close()

    def _finish(self, response: Response) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(response)


async def connect(host: str, port: int, count: int) -> list[Connection]:
    """Opens connections. Raises OSError when the server does not take them."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(_CONNECT_AT_ONCE)

    async def one() -> Connection:
        async with gate:
            return (await loop.create_connection(Connection, host, port))[1]

    return list(await asyncio.gather(*(one() for _ in range(count))))
