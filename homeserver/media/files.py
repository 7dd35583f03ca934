"""Files on disk, by the hash of their content: no name from outside ever becomes a path (HARDENING 27)."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import structlog

from homeserver.errors import too_large, unavailable

log = structlog.get_logger(__name__)

CHUNK = 256 * 1024
ABANDONED_SECONDS = 3600
"""Nothing was written to a draft for so long; a body's next piece has to come within a minute."""


class Stored(NamedTuple):
    digest: str
    size: int


class MediaFiles:
    """Content by SHA-256, in two levels of folders; derived files (thumbnails) beside it by name."""

    def __init__(self, root: Path) -> None:
        """Drafts of a process that died are dropped; those of other replicas grow still."""
        self._root = root
        for draft in self._drafts.glob("*"):
            with suppress(FileNotFoundError):
                if draft.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                    draft.unlink()

    @property
    def _drafts(self) -> Path:
        return self._root / "drafts"

    def path(self, digest: str) -> Path:
        return self._root / "content" / digest[:2] / digest[2:4] / digest

    def thumbnail_path(self, digest: str, variant: str) -> Path:
        """`variant` is made of numbers and words of our own, such as "320x240-scale"."""
        return self._root / "thumbnails" / digest[:2] / digest[2:4] / f"{digest}-{variant}"

    async def store(self, chunks: AsyncIterator[bytes], most: int) -> Stored:
        """Write a stream of at most `most` bytes. Raises 413, or 503 when the disk takes no more."""
        draft = self._drafts / uuid4().hex
        try:
            await asyncio.to_thread(draft.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
            stored = await self._write(draft, chunks, most)
            await asyncio.to_thread(self._keep, draft, self.path(stored.digest))
        except OSError as error:
            # What is the matter with folders and disks is for the log alone.
            log.error("a file cannot be stored", folder=str(self._root), error=str(error))
            raise unavailable("The file cannot be stored now") from error
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)
        return stored

    async def _write(self, draft: Path, chunks: AsyncIterator[bytes], most: int) -> Stored:
        digest, size = hashlib.sha256(), 0
        file = await asyncio.to_thread(draft.open, "xb")
        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > most:
                    raise too_large(f"A file may have {most} bytes at most")
                digest.update(chunk)
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(_sync, file.fileno(), file.flush)
        finally:
            await asyncio.to_thread(file.close)
        return Stored(digest.hexdigest(), size)

    def _keep(self, draft: Path, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.replace(draft, path)
        _sync_folder(path.parent)

    def save_thumbnail(self, path: Path, content: bytes) -> None:
        """Write a thumbnail whole or not at all."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{uuid4().hex}")
        draft.write_bytes(content)
        os.replace(draft, path)

    def remove(self, digest: str) -> None:
        """Delete content and its thumbnails."""
        self.path(digest).unlink(missing_ok=True)
        folder = self.thumbnail_path(digest, "").parent
        if folder.is_dir():
            for thumbnail in folder.glob(f"{digest}-*"):
                thumbnail.unlink(missing_ok=True)


def _sync(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
