"""Uploading and finding media (spec: client-server "Content repository")."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from secrets import token_urlsafe
from weakref import WeakValueDictionary

import msgspec

from homeserver.bus.to_others import ToOthers
from homeserver.clock import Clock
from homeserver.errors import MatrixError, limit_exceeded, not_found
from homeserver.media.files import MediaFiles
from homeserver.media.media_file import MediaFile, kept_name, kept_type
from homeserver.media.remote import RemoteMedia
from homeserver.media.servers import not_yet_uploaded
from storage.collection import Collection
from storage.records.media import Media

MAX_WAIT_MS = 60_000

FILLED = "media_filled"
"""Kind of message: a media id that has its content now."""


class Reserved(msgspec.Struct, frozen=True):
    media_id: str
    expires_ts: int


class MediaRepository:
    """The media of this server's users, and by way of `remote` those of others."""

    def __init__(
        self,
        media: Collection[Media],
        files: MediaFiles,
        remote: RemoteMedia,
        to_others: ToOthers,
        *,
        server_name: str,
        now: Clock,
        max_upload_size: int,
        unused_expires_after: int,
        max_pending: int,
    ) -> None:
        self._media = media
        self._files = files
        self.remote = remote
        self._to_others = to_others
        self.server_name = server_name
        self._now = now
        self.max_upload_size = max_upload_size
        self._unused_expires_after = unused_expires_after
        self._max_pending = max_pending
        self._waiting: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        """Held by those who wait."""
        to_others.subscribe(FILLED, lambda body: self._on_filled(body.decode()))

    def uri(self, media_id: str) -> str:
        return f"mxc://{self.server_name}/{media_id}"

    async def upload(
        self, user_id: str, chunks: AsyncIterator[bytes], *, content_type: str | None, filename: str | None
    ) -> str:
        """Store a file; its media id. Raises 413, 503."""
        stored = await self._files.store(chunks, self.max_upload_size)
        media_id = token_urlsafe(18)
        await self._media.insert(
            Media(
                media_id=media_id,
                user_id=user_id,
                created_ts=self._now(),
                digest=stored.digest,
                size=stored.size,
                content_type=kept_type(content_type),
                filename=kept_name(filename),
            )
        )
        return media_id

    async def reserve(self, user_id: str) -> Reserved:
        """A media id whose content comes later. Raises 429 when too many are waiting."""
        now = self._now()
        pending = await self._media.find("pending", (user_id,), after=now, limit=self._max_pending)
        if len(pending) >= self._max_pending:
            first = pending[0].expires_ts
            raise limit_exceeded(max(1, first - now) if first is not None else 1000)
        expires = now + self._unused_expires_after
        media = Media(media_id=token_urlsafe(18), user_id=user_id, created_ts=now, expires_ts=expires)
        await self._media.insert(media)
        return Reserved(media.media_id, expires)

    async def fill(
        self,
        media_id: str,
        user_id: str,
        chunks: AsyncIterator[bytes],
        *,
        content_type: str | None,
        filename: str | None,
    ) -> None:
        """Give a reserved id its content. Raises 403 for another user's, 404, 409 when it has one."""
        media = await self._media.get(media_id)
        if media is None or self._expired(media):
            raise not_found("There is no such media id")
        if media.user_id != user_id:
            raise MatrixError(403, "M_FORBIDDEN", "This media id was reserved by another user")
        if media.digest is not None:
            raise cannot_overwrite()
        stored = await self._files.store(chunks, self.max_upload_size)
        filled = msgspec.structs.replace(
            media,
            expires_ts=None,
            digest=stored.digest,
            size=stored.size,
            content_type=kept_type(content_type),
            filename=kept_name(filename),
        )
        if not await self._media.replace_if(media, filled):
            raise cannot_overwrite()
        self._on_filled(media_id)
        self._to_others.tell(FILLED, media_id.encode())

    def _on_filled(self, media_id: str) -> None:
        waiting = self._waiting.get(media_id)
        if waiting is not None:
            waiting.set()

    async def find(self, server_name: str, media_id: str, user_id: str, *, wait_ms: int) -> MediaFile:
        """The file of whichever server, for a user; see `find_own` and `RemoteMedia.find`."""
        if server_name == self.server_name:
            return await self.find_own(media_id, wait_ms=wait_ms)
        return await self.remote.find(server_name, media_id, user_id, wait_ms=min(wait_ms, MAX_WAIT_MS))

    async def find_own(self, media_id: str, *, wait_ms: int) -> MediaFile:
        """A file that was uploaded here; waits up to `wait_ms` for an upload that is under way.

        Raises 404, or 504 M_NOT_YET_UPLOADED.
        """
        # Before it is looked for: it may be filled while that is under way.
        filled = self._waiting.setdefault(media_id, asyncio.Event())
        media = await self._media.get(media_id)
        if media is not None and media.digest is None and not self._expired(media):
            with suppress(TimeoutError):
                await asyncio.wait_for(filled.wait(), min(wait_ms, MAX_WAIT_MS) / 1000)
            media = await self._media.get(media_id)
            if media is not None and media.digest is None:
                raise not_yet_uploaded()
        if media is None or media.digest is None:
            raise not_found("There is no such media")
        return MediaFile(self._files, media.digest, media.content_type, media.filename)

    def _expired(self, media: Media) -> bool:
        return media.digest is None and media.expires_ts is not None and media.expires_ts <= self._now()


def cannot_overwrite() -> MatrixError:
    return MatrixError(409, "M_CANNOT_OVERWRITE_MEDIA", "The media id has its content already")
