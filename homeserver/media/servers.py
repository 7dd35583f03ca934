"""The other servers, as far as files go (spec: server-server "Content Repository")."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from homeserver.errors import MatrixError, not_found


class OfferedFile(NamedTuple):
    """A file as another server gives it, with what it says of it."""

    content_type: str | None
    filename: str | None
    pieces: AsyncIterator[bytes]


class MediaServers(Protocol):
    """Gets files from the servers to whose users they belong."""

    def open(
        self, server: str, media_id: str, *, wait_ms: int, most: int
    ) -> AbstractAsyncContextManager[OfferedFile]:
        """A file to be read within the context; little more than `most` bytes are ever taken in.

        Raises MatrixError, also while it is read: 404, 502 M_TOO_LARGE or for a server that does not answer,
        504 M_NOT_YET_UPLOADED after `wait_ms`.
        """
        ...


class NoMediaServers:
    """Of a server that has nothing to do with others."""

    def open(
        self, server: str, media_id: str, *, wait_ms: int, most: int
    ) -> AbstractAsyncContextManager[OfferedFile]:
        raise not_found("This server does not talk to others")


def remote_too_large() -> MatrixError:
    return MatrixError(502, "M_TOO_LARGE", "The file is larger than what is fetched from other servers")


def not_yet_uploaded() -> MatrixError:
    return MatrixError(504, "M_NOT_YET_UPLOADED", "Not uploaded yet")
