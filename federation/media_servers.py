"""Other servers asked for files of their users (spec: server-server "Content Repository").

A file comes with the answer, or the answer says where on the web it lies. Servers that know of neither have
it where files were before: under the routes for clients.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.message import Message

from yarl import URL

from federation.client import FederationClient, request_target
from federation.errors import FederationError, Refused, RemoteError, TooLongAnswer
from federation.multipart import InvalidParts, Parts, boundary_of
from homeserver.egress.client import Egress, EgressError, Incoming, TooLarge
from homeserver.errors import MatrixError, not_found
from homeserver.media.servers import OfferedFile, not_yet_uploaded, remote_too_large

DOWNLOAD = "/_matrix/federation/v1/media/download"
OLD_DOWNLOAD = "/_matrix/media/v3/download"
SECONDS = 300.0
"""For one file."""
AROUND_FILE = 64 * 1024
"""Bytes of an answer that are not the file's."""


class RemoteMediaServers:
    """Implements `homeserver.media.servers.MediaServers`."""

    def __init__(self, client: FederationClient, egress: Egress) -> None:
        self._client = client
        self._egress = egress

    @asynccontextmanager
    async def open(
        self, server: str, media_id: str, *, wait_ms: int, most: int
    ) -> AsyncIterator[OfferedFile]:
        target = request_target(DOWNLOAD, media_id, query={"timeout_ms": str(wait_ms)})
        try:
            async with self._client.open(server, target, seconds=SECONDS) as answer:
                parts = Parts(answer.pieces(most + AROUND_FILE), boundary_of(_type_of(answer)))
                await parts.next()
                headers = await parts.next()
                location = headers["Location"]
                if location is None:
                    content_type = str(headers.get("Content-Type", ""))
                    yield OfferedFile(content_type, headers.get_filename(), parts.content())
                    return
            async with self._elsewhere(str(location), most) as offered:
                yield offered
        except RemoteError as error:
            if error.errcode != "M_UNRECOGNIZED":
                raise _told(error) from error
        except (FederationError, EgressError, InvalidParts) as error:
            raise _told(error) from error
        else:
            return
        async with self._before(server, media_id, most) as offered:
            yield offered

    @asynccontextmanager
    async def _elsewhere(self, location: str, most: int) -> AsyncIterator[OfferedFile]:
        """A file that lies on the web. Nothing tells there who asks."""
        try:
            url = URL(location)
        except ValueError as error:
            raise InvalidParts(str(error)) from None
        if url.scheme != "https" or not url.host:
            raise InvalidParts("the file is said to be at no such address")
        async with self._egress.open("GET", url, seconds=SECONDS) as incoming:
            if incoming.status != 200:
                raise InvalidParts(f"where the file is said to be, the answer is {incoming.status}")
            yield _offered(incoming.headers, incoming.pieces(most))

    @asynccontextmanager
    async def _before(self, server: str, media_id: str, most: int) -> AsyncIterator[OfferedFile]:
        """A file of a server that does not serve them to servers yet."""
        target = request_target(OLD_DOWNLOAD, server, media_id, query={"allow_remote": "false"})
        try:
            async with self._client.open(server, target, seconds=SECONDS) as answer:
                yield _offered(answer.headers, answer.pieces(most))
        except FederationError as error:
            raise _told(error) from error


def _offered(headers: Mapping[str, str], pieces: AsyncIterator[bytes]) -> OfferedFile:
    described = Message()
    described["Content-Disposition"] = headers.get("Content-Disposition", "attachment")
    return OfferedFile(headers.get("Content-Type"), described.get_filename(), pieces)


def _type_of(answer: Incoming) -> str:
    return answer.headers.get("Content-Type", "")


def _told(error: Exception) -> MatrixError:
    """What the client is told when a file cannot be had."""
    match error:
        case TooLongAnswer() | TooLarge() | RemoteError(errcode="M_TOO_LARGE"):
            return remote_too_large()
        case RemoteError(errcode="M_NOT_YET_UPLOADED"):
            return not_yet_uploaded()
        case Refused() | RemoteError(status=404):
            return not_found("There is no such media")
    return MatrixError(502, "M_UNKNOWN", "The server that has the file does not give it")
