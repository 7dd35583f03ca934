"""The media of this server's users, for other servers (spec: server-server "Content Repository")."""

from asyncio import to_thread
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex

from aiohttp import web

from federation.http import Call, get
from homeserver.media.files import CHUNK
from homeserver.media.repository import MediaRepository
from homeserver.media.thumbnails import Thumbnails
from rest.answers import Result
from rest.files import headers_of_file, thumbnail_wanted, wait_of
from rest.routes import Routes

MEDIA = "/_matrix/federation/v1/media"


class MediaRoutes(Routes):
    def __init__(self, media: MediaRepository, thumbnails: Thumbnails) -> None:
        self._media = media
        self._thumbnails = thumbnails

    @get(f"{MEDIA}/download/{{media_id}}")
    async def download(self, call: Call) -> Result:
        file = await self._media.find_own(call.path("media_id"), wait_ms=wait_of(call))
        return await _parts(file.path, file.content_type, file.filename)

    @get(f"{MEDIA}/thumbnail/{{media_id}}")
    async def thumbnail(self, call: Call) -> Result:
        wanted = thumbnail_wanted(call)
        file = await self._media.find_own(call.path("media_id"), wait_ms=wait_of(call))
        thumbnail = await self._thumbnails.get(file, *wanted)
        return await _parts(thumbnail.path, thumbnail.content_type, "thumbnail")


async def _parts(path: Path, content_type: str, filename: str | None) -> web.Response:
    """The two parts of an answer: what is to be said of the file, which is nothing so far, and the file."""
    boundary = token_hex(16)
    described = "".join(
        f"{name}: {value}\r\n" for name, value in headers_of_file(content_type, filename).items()
    )
    front = (
        f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n{described}\r\n"
    ).encode()
    end = f"\r\n--{boundary}--\r\n".encode()
    size = (await to_thread(path.stat)).st_size

    async def pieces() -> AsyncIterator[bytes]:
        yield front
        file = await to_thread(path.open, "rb")
        try:
            while piece := await to_thread(file.read, CHUNK):
                yield piece
        finally:
            await to_thread(file.close)
        yield end

    return web.Response(
        body=pieces(),
        headers={
            "Content-Type": f"multipart/mixed; boundary={boundary}",
            "Content-Length": str(len(front) + size + len(end)),
        },
    )
