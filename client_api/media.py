"""The content repository (spec: client-server "Content repository").

Downloads are for logged-in users; the old routes without login are frozen: they show nothing that
was uploaded here (spec: "Unauthenticated media"). Whatever is shown is shown so that no script of a
file runs in our origin (HARDENING 28).
"""

from pathlib import Path

from aiohttp import web

from client_api.http import Auth, Call, get, post, route
from homeserver.errors import MatrixError, not_found
from homeserver.media.media_file import MediaFile
from homeserver.media.repository import MediaRepository
from homeserver.media.thumbnails import Thumbnails
from rest.answers import Result
from rest.files import headers_of_file, thumbnail_wanted, wait_of
from rest.json_response import CORS
from rest.routes import PARAMETERS, Routes

V1 = "/_matrix/client/v1/media"

SAFE_HEADERS = {
    **CORS,
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; "
        "style-src 'unsafe-inline'; media-src 'self'; object-src 'self';"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Cache-Control": "private, max-age=31536000, immutable",
    "Referrer-Policy": "no-referrer",
}


class MediaRoutes(Routes):
    def __init__(self, media: MediaRepository, thumbnails: Thumbnails) -> None:
        self._media = media
        self._thumbnails = thumbnails

    # Uploading

    @post("/_matrix/media/v3/upload", limit="media_create", streams=True, good_standing=True)
    async def upload(self, call: Call) -> Result:
        self._check_length(call)
        media_id = await self._media.upload(
            call.user_id,
            call.chunks(),
            content_type=call.request.headers.get("Content-Type"),
            filename=call.query("filename"),
        )
        return {"content_uri": self._media.uri(media_id)}

    @post("/_matrix/media/v1/create", limit="media_create", good_standing=True)
    async def create(self, call: Call) -> Result:
        reserved = await self._media.reserve(call.user_id)
        return {
            "content_uri": self._media.uri(reserved.media_id),
            "unused_expires_at": reserved.expires_ts,
        }

    @route("PUT", "/_matrix/media/v3/upload/{server_name}/{media_id}", streams=True, good_standing=True)
    async def fill(self, call: Call) -> Result:
        if call.path("server_name") != self._media.server_name:
            raise not_found("There is no such media id")
        self._check_length(call)
        await self._media.fill(
            call.path("media_id"),
            call.user_id,
            call.chunks(),
            content_type=call.request.headers.get("Content-Type"),
            filename=call.query("filename"),
        )
        return {}

    def _check_length(self, call: Call) -> None:
        length = call.request.content_length
        if length is not None and length > self._media.max_upload_size:
            raise MatrixError(
                413, "M_TOO_LARGE", f"A file may have {self._media.max_upload_size} bytes at most"
            )

    @get(f"{V1}/config", "/_matrix/media/v3/config", auth=Auth.GUEST)
    async def config(self, call: Call) -> Result:
        return {"m.upload.size": self._media.max_upload_size}

    # Downloading

    @get(
        f"{V1}/download/{{server_name}}/{{media_id}}",
        f"{V1}/download/{{server_name}}/{{media_id}}/{{filename}}",
        auth=Auth.GUEST,
    )
    async def download(self, call: Call) -> Result:
        file = await self._find(call)
        filename = call.request[PARAMETERS].get("filename") or file.filename
        return _file(file.path, file.content_type, filename)

    async def _find(self, call: Call) -> MediaFile:
        server_name, media_id = call.path("server_name"), call.path("media_id")
        return await self._media.find(server_name, media_id, call.user_id, wait_ms=wait_of(call))

    @get(f"{V1}/thumbnail/{{server_name}}/{{media_id}}", auth=Auth.GUEST)
    async def thumbnail(self, call: Call) -> Result:
        wanted = thumbnail_wanted(call)
        file = await self._find(call)
        thumbnail = await self._thumbnails.get(file, *wanted)
        return _file(thumbnail.path, thumbnail.content_type, "thumbnail")

    @get(f"{V1}/preview_url", "/_matrix/media/v3/preview_url")
    async def preview_url(self, call: Call) -> Result:
        raise not_found("This server makes no URL previews")

    # The frozen routes

    @get(
        "/_matrix/media/v3/download/{server_name}/{media_id}",
        "/_matrix/media/v3/download/{server_name}/{media_id}/{filename}",
        "/_matrix/media/v3/thumbnail/{server_name}/{media_id}",
        auth=Auth.NONE,
    )
    async def frozen(self, call: Call) -> Result:
        raise not_found("Media is for logged-in users: use /_matrix/client/v1/media")


def _file(path: Path, content_type: str, filename: str | None) -> web.FileResponse:
    """A file with the headers that keep it from doing harm."""
    headers = {**SAFE_HEADERS, **headers_of_file(content_type, filename)}
    return web.FileResponse(path, headers=headers)
