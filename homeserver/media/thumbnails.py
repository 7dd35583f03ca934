"""Thumbnails of pictures (spec: client-server "Thumbnails").

Pictures come from anybody, so decoding happens in a process of its own with bounded memory and time,
only for formats on a list, and only after the claimed dimensions were looked at (HARDENING 25).
"""

import asyncio
import io
import multiprocessing
import resource
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Literal, NamedTuple

import structlog

from homeserver.config.options import ThumbnailSize
from homeserver.errors import MatrixError
from homeserver.media.media_file import MediaFile

log = structlog.get_logger(__name__)

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
SECONDS = 10.0
MEMORY = 1024 * 1024 * 1024
JPEG_QUALITY = 82
MAX_WAITING = 50
MAX_SIDE = 4096


class Thumbnail(NamedTuple):
    path: Path
    content_type: str


class Thumbnails:
    """Makes thumbnails when they are asked for, and keeps them."""

    def __init__(self, *, sizes: Sequence[ThumbnailSize], dynamic: bool, max_pixels: int) -> None:
        self._sizes = sorted(sizes, key=lambda size: size.width * size.height)
        self._dynamic = dynamic
        self._max_pixels = max_pixels
        self._pool: ProcessPoolExecutor | None = None
        self._making: dict[Path, asyncio.Task[Thumbnail]] = {}
        self._turn = asyncio.Lock()
        """Of one picture at a time: its seconds begin with its turn, and no other is lost with it."""

    async def get(self, file: MediaFile, width: int, height: int, method: str) -> Thumbnail:
        """The thumbnail nearest to what is wanted. Raises 400 M_UNKNOWN for what is no picture."""
        size = self._nearest(width, height, method)
        variant = f"{size.width}x{size.height}-{size.method}"
        for suffix, content_type in ((".jpg", "image/jpeg"), (".png", "image/png")):
            path = file.files.thumbnail_path(file.digest, variant + suffix)
            if await asyncio.to_thread(path.exists):
                return Thumbnail(path, content_type)
        base = file.files.thumbnail_path(file.digest, variant)
        task = self._making.get(base)
        if task is None:
            if len(self._making) >= MAX_WAITING:
                raise MatrixError(503, "M_UNKNOWN", "Too many thumbnails at once", retry_after_ms=1000)
            task = asyncio.create_task(self._make(file, base, size), name="thumbnail")
            self._making[base] = task
            task.add_done_callback(lambda _: self._making.pop(base, None))
        return await asyncio.shield(task)

    def _nearest(self, width: int, height: int, method: str) -> ThumbnailSize:
        """The smallest configured size that covers what is wanted, else a square that does.

        Squares have a power of two as their side, so that no client can have many made of one picture.
        """
        kind: Literal["crop", "scale"] = "crop" if method == "crop" else "scale"
        if self._dynamic:
            return ThumbnailSize(min(width, MAX_SIDE), min(height, MAX_SIDE), kind)
        for size in self._sizes:
            if size.method == kind and size.width >= width and size.height >= height:
                return size
        side = min(1 << (max(width, height) - 1).bit_length(), MAX_SIDE)
        return ThumbnailSize(side, side, kind)

    async def _make(self, file: MediaFile, base: Path, size: ThumbnailSize) -> Thumbnail:
        async with self._turn:
            content, is_jpeg = await self._decoded(file, size)
        path = base.with_name(base.name + (".jpg" if is_jpeg else ".png"))
        await asyncio.to_thread(file.files.save_thumbnail, path, content)
        return Thumbnail(path, "image/jpeg" if is_jpeg else "image/png")

    async def _decoded(self, file: MediaFile, size: ThumbnailSize) -> tuple[bytes, bool]:
        """(thumbnail, whether it is a JPEG). Raises as `get`."""
        loop = asyncio.get_running_loop()
        if self._pool is None:
            self._pool = _new_pool()
        job = loop.run_in_executor(
            self._pool,
            _thumbnail,
            str(file.path),
            size.width,
            size.height,
            size.method == "crop",
            self._max_pixels,
        )
        try:
            return await asyncio.wait_for(job, SECONDS)
        except (TimeoutError, BrokenProcessPool) as error:
            log.warning("a picture could not be decoded in time or memory", digest=file.digest)
            self._end_pool()
            raise no_thumbnail("The picture is too demanding") from error
        except ValueError as error:
            raise no_thumbnail("This file has no thumbnail") from error

    def _end_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in list(pool._processes.values()):
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        for task in self._making.values():
            task.cancel()
        self._end_pool()


def no_thumbnail(why: str) -> MatrixError:
    return MatrixError(400, "M_UNKNOWN", why)


def _new_pool() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_limit_process, max_tasks_per_child=200)


def _limit_process() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _thumbnail(path: str, width: int, height: int, crop: bool, max_pixels: int) -> tuple[bytes, bool]:
    """(thumbnail, whether it is a JPEG). Raises ValueError for what cannot or must not be decoded."""
    try:
        return _decode(path, width, height, crop, max_pixels)
    except Exception as error:
        # Decoders fail in as many ways as files are broken; for the server it is all one.
        raise ValueError(f"not decoded: {error}") from None


def _decode(path: str, width: int, height: int, crop: bool, max_pixels: int) -> tuple[bytes, bool]:
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = max_pixels
    with Image.open(path, formats=FORMATS) as opened:
        if opened.width * opened.height > max_pixels:
            raise ValueError("too many pixels")
        opened.draft("RGB", (width, height))
        turned = ImageOps.exif_transpose(opened) or opened
        if turned.mode.startswith("I"):
            # Of 16 bits of gray, all but the darkest would be white.
            turned = turned.point(lambda gray: gray * (1 / 256)).convert("L")
        has_alpha = turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info
        picture = turned.convert("RGBA" if has_alpha else "RGB")
    if crop:
        size = (min(width, picture.width), min(height, picture.height))
        picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    else:
        picture.thumbnail((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if has_alpha:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue(), not has_alpha
