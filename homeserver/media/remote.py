"""Files of other servers' users: fetched when they are asked for, and kept while there is room for them.

A copy lies apart from what was uploaded here, under the hash of its content. When all copies together have
more bytes than the configuration grants them, those go that nobody has asked for longest. What could not be
had is not tried again for a minute: clients ask often for what they do not get. Who asks for a file first
pays for its bytes, out of a budget of their own.

spec: client-server "Content repository", server-server "Content Repository"
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from math import ceil
from weakref import WeakValueDictionary

from msgspec.structs import replace

from homeserver.bus.to_others import ToOthers
from homeserver.clock import Clock
from homeserver.errors import MatrixError, not_found
from homeserver.media.files import MediaFiles
from homeserver.media.media_file import MediaFile, kept_name, kept_type
from homeserver.media.servers import MediaServers, OfferedFile, remote_too_large
from homeserver.protocol.identifiers import InvalidIdentifier, check_server_name
from homeserver.rate_limits import RateLimits
from homeserver.single_flight import SingleFlight
from storage.collection import Collection
from storage.records.media import MediaCopy

FETCHED_AT_ONCE = 32
"""Each takes disk beside the copies while it is under way."""
OF_ONE_SERVER = 4
"""So that a slow server holds up its own files alone."""
ABSENT_MS = 60_000
ABSENT_KEPT = 10_000
SEEN_EVERY_MS = 3_600_000
"""How exactly it is known when a copy was asked for last."""
PAGE = 500

COPIED = "remote_media"
"""Kind of message: by how many bytes the copies have grown, or shrunk."""

_MEDIA_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")


class RemoteMedia:
    """Finds files of other servers."""

    def __init__(
        self,
        copies: Collection[MediaCopy],
        files: MediaFiles,
        servers: MediaServers,
        limits: RateLimits,
        to_others: ToOthers,
        now: Clock,
        *,
        max_size: int,
        max_total: int,
    ) -> None:
        """`max_size`: bytes of one file; `max_total`: of all copies."""
        self._copies = copies
        self._files = files
        self._servers = servers
        self._limits = limits
        self._to_others = to_others
        self._now = now
        self._max_size = max_size
        self._max_total = max_total
        self._slots = asyncio.Semaphore(FETCHED_AT_ONCE)
        self._slots_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._fetching: SingleFlight[str, MediaFile] = SingleFlight()
        self._absent: OrderedDict[str, tuple[int, MatrixError]] = OrderedDict()
        """Until when a file is not asked for again, and why."""
        self._total: int | None = None
        """Bytes of all copies; None: not counted yet."""
        self._counting = asyncio.Lock()
        to_others.subscribe(COPIED, lambda body: self._grown(int(body)))

    async def find(self, server: str, media_id: str, user_id: str, *, wait_ms: int) -> MediaFile:
        """A file of another server. Raises 404, 429, 502, 504 M_NOT_YET_UPLOADED, 503."""
        try:
            check_server_name(server)
        except InvalidIdentifier:
            raise not_found("There is no such server") from None
        if not _MEDIA_ID.fullmatch(media_id):
            raise not_found("There is no such media")
        uri = f"mxc://{server}/{media_id}"
        copy = await self._copies.get(uri)
        if copy is not None:
            file = self._file(copy)
            # Another replica may just have removed it, or an administrator.
            if await asyncio.to_thread(file.path.exists):
                await self._seen(copy)
                return file
        absent = self._absent.get(uri)
        if absent is not None and absent[0] > self._now():
            raise MatrixError(absent[1].status, absent[1].errcode, absent[1].error)
        self._limits.charge("remote_media", user_id)
        return await self._fetching.run(uri, lambda: self._fetch(server, media_id, uri, user_id, wait_ms))

    async def close(self) -> None:
        """Give up what is being fetched."""
        await self._fetching.close()

    def _file(self, copy: MediaCopy) -> MediaFile:
        return MediaFile(self._files, copy.digest, copy.content_type, copy.filename)

    async def _seen(self, copy: MediaCopy) -> None:
        now = self._now()
        if now - copy.seen_ts >= SEEN_EVERY_MS:
            await self._copies.replace_if(copy, replace(copy, seen_ts=now))

    async def _fetch(self, server: str, media_id: str, uri: str, user_id: str, wait_ms: int) -> MediaFile:
        most = min(self._max_size, self._max_total)
        own_slots = self._slots_of.setdefault(server, asyncio.Semaphore(OF_ONE_SERVER))
        try:
            async with (
                own_slots,
                self._slots,
                self._servers.open(server, media_id, wait_ms=wait_ms, most=most) as offered,
            ):
                paid = offered._replace(pieces=self._paid(offered.pieces, user_id))
                copy = await self._kept(uri, paid, most)
        except MatrixError as error:
            if error.status in (404, 502):
                self._note_absent(uri, error)
            raise
        return self._file(copy)

    async def _paid(self, pieces: AsyncIterator[bytes], user_id: str) -> AsyncIterator[bytes]:
        """The pieces of a file, for which a user pays as they come."""
        async for piece in pieces:
            self._limits.spend("remote_media", user_id, ceil(len(piece) / 1024))
            yield piece

    async def _kept(self, uri: str, offered: OfferedFile, most: int) -> MediaCopy:
        try:
            stored = await self._files.store(offered.pieces, most)
        except MatrixError as error:
            raise remote_too_large() if error.status == 413 else error from error
        copy = MediaCopy(
            uri=uri,
            digest=stored.digest,
            size=stored.size,
            content_type=kept_type(offered.content_type),
            filename=kept_name(offered.filename),
            seen_ts=self._now(),
        )
        async with self._counting:
            if self._total is None:
                self._total = await self._counted()
        before = await self._copies.get(uri)
        await self._copies.put(copy)
        self._add(copy.size - (before.size if before is not None else 0))
        await self._make_room()
        return copy

    def _note_absent(self, uri: str, error: MatrixError) -> None:
        self._absent[uri] = self._now() + ABSENT_MS, error
        self._absent.move_to_end(uri)
        if len(self._absent) > ABSENT_KEPT:
            self._absent.popitem(last=False)

    # The ceiling

    async def _make_room(self) -> None:
        """Remove the copies that were not asked for longest until the others have their room."""
        async with self._counting:
            while self._over():
                oldest = await self._copies.find("by_seen", limit=PAGE)
                for copy in oldest:
                    if not self._over():
                        return
                    if await self._remove(copy):
                        self._add(-copy.size)
                if len(oldest) < PAGE:
                    # All are gone: what is left of the sum was miscounted between replicas.
                    self._total = 0

    def _over(self) -> bool:
        return self._total is not None and self._total > self._max_total

    async def _counted(self) -> int:
        total, after = 0, ""
        while page := await self._copies.find("key", after=after, limit=PAGE):
            total += sum(copy.size for copy in page)
            after = page[-1].uri
        return total

    async def _remove(self, copy: MediaCopy) -> bool:
        """Whether it was this replica that removed it."""
        removed = await self._copies.delete(copy.uri)
        if not await self._copies.find("by_digest", (copy.digest,), limit=1):
            await asyncio.to_thread(self._files.remove, copy.digest)
        return removed

    def _add(self, size: int) -> None:
        """Copies have come or gone here."""
        self._grown(size)
        self._to_others.tell(COPIED, str(size).encode())

    def _grown(self, size: int) -> None:
        if self._total is not None:
            self._total += size
