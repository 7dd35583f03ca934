"""Answers of several parts (RFC 2046, section 5.1), read as they come in: no part is ever held in memory."""

from collections.abc import AsyncIterator
from email.message import Message
from email.parser import BytesHeaderParser

MAX_HEADERS = 16 * 1024


class InvalidParts(ValueError):
    """What came is not of several parts."""


def boundary_of(content_type: str) -> bytes:
    """The boundary that a `Content-Type` header names. Raises InvalidParts."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    if message.get_content_type() != "multipart/mixed" or not boundary or len(boundary) > 70:
        raise InvalidParts("the answer is not of several parts")
    return boundary.encode("utf-8", "surrogateescape")


class Parts:
    """The parts of a body, one after the other."""

    def __init__(self, pieces: AsyncIterator[bytes], boundary: bytes) -> None:
        self._pieces = pieces
        self._delimiter = b"\r\n--" + boundary
        self._held = bytearray(b"\r\n")
        """What came and was not handed on; as if the body began with a new line, as each delimiter does."""

    async def next(self) -> Message:
        """The headers of the next part. Raises InvalidParts when there is none."""
        async for _ in self.content():
            pass
        line = await self._upto(b"\r\n")
        if line.startswith(b"--"):
            raise InvalidParts("a part is missing")
        # A part without headers begins with the empty line that ends them.
        headers = b"" if await self._begins_with(b"\r\n") else await self._upto(b"\r\n\r\n")
        return BytesHeaderParser().parsebytes(headers)

    async def content(self) -> AsyncIterator[bytes]:
        """What is left of the present part. Raises InvalidParts when the body ends within it."""
        keep = len(self._delimiter) - 1
        while (end := self._held.find(self._delimiter)) < 0:
            if len(self._held) > keep:
                yield self._take(len(self._held) - keep)
            await self._more()
        if end:
            yield self._take(end)
        del self._held[: len(self._delimiter)]

    async def _upto(self, end: bytes) -> bytes:
        """What comes before `end`, which is passed over too."""
        while (found := self._held.find(end)) < 0:
            if len(self._held) > MAX_HEADERS:
                raise InvalidParts("the headers of a part are too long")
            await self._more()
        taken = self._take(found)
        del self._held[: len(end)]
        return taken

    async def _begins_with(self, text: bytes) -> bool:
        """Whether `text` comes next, which is passed over then."""
        while len(self._held) < len(text):
            await self._more()
        if not self._held.startswith(text):
            return False
        del self._held[: len(text)]
        return True

    def _take(self, length: int) -> bytes:
        taken = bytes(self._held[:length])
        del self._held[:length]
        return taken

    async def _more(self) -> None:
        piece = await anext(self._pieces, None)
        if piece is None:
            raise InvalidParts("the answer ends within a part")
        self._held += piece
