"""The log on SQLite: says which thread does what; see `appending` for writes and `log_reads` for reads."""

from collections.abc import Sequence

from storage.log import Entry, KeyedRef, Kind, ShardMap
from storage.sqlite import log_reads
from storage.sqlite.appending import Append, read_tail
from storage.sqlite.bodies import Bodies
from storage.sqlite.readers import INLINE_ROWS, Readers
from storage.sqlite.removal import remove_entries, rewrite_entry
from storage.sqlite.writer import Writer

SCAN = INLINE_ROWS + 1
"""Stands for "any number of rows": not to be read on the event loop."""
REMOVED_AT_ONCE = 500


class SqliteLog:
    """Implements `storage.log.Log`."""

    def __init__(self, writer: Writer, readers: Readers, bodies: Bodies) -> None:
        """`bodies` is for the writer's thread alone."""
        self._writer = writer
        self._bodies = bodies
        self._readers = readers

    async def append(self, shard: int, expected: int, entries: Sequence[Entry]) -> int:
        return await self._writer.run(Append(shard, expected, entries))

    async def tail(self, shard: int) -> int:
        return await self._readers.run(lambda r: read_tail(r.db, shard), rows=1)

    async def read(self, shard: int, after: int, limit: int) -> list[Entry]:
        return await self._readers.run(lambda r: log_reads.read(r, shard, after, limit), rows=limit)

    async def entry(self, shard: int, seq: int) -> Entry | None:
        return await self._readers.run(lambda r: log_reads.entry(r, shard, seq), rows=1)

    async def entries(self, shard: int, seqs: Sequence[int]) -> list[Entry]:
        return await self._readers.run(lambda r: log_reads.entries(r, shard, seqs), rows=len(seqs))

    async def by_event_id(self, shard: int, event_ids: Sequence[str]) -> dict[str, Entry]:
        bounds = log_reads.whole_shards(shard, shard)
        return await self._readers.run(
            lambda r: log_reads.by_event_id(r, event_ids, *bounds), rows=len(event_ids)
        )

    async def find_event(self, event_id: str) -> Entry | None:
        bounds = log_reads.whole_shards(0, ShardMap.USER_BASE - 1)
        found = await self._readers.run(lambda r: log_reads.by_event_id(r, (event_id,), *bounds), rows=1)
        return found.get(event_id)

    async def by_txn(self, shard: int, txn: bytes) -> Entry | None:
        return await self._readers.run(lambda r: log_reads.by_txn(r, shard, txn), rows=1)

    async def page(
        self,
        shard: int,
        stream: str,
        *,
        kind: Kind,
        after: int | None = None,
        before: int | None = None,
        newest_first: bool = False,
        limit: int,
    ) -> list[Entry]:
        return await self._readers.run(
            lambda r: log_reads.page(r, shard, stream, kind, after, before, newest_first, limit), rows=limit
        )

    async def keyed(
        self,
        shard: int,
        stream: str,
        *,
        kind: Kind,
        type: str,
        key: str,
        after: int | None = None,
        before: int | None = None,
        newest_first: bool = False,
        limit: int,
    ) -> list[Entry]:
        return await self._readers.seldom_many(
            lambda r, most: log_reads.keyed(
                r, shard, stream, kind, type, key, after, before, newest_first, most
            ),
            limit=limit,
        )

    async def current(self, shard: int, stream: str, kind: Kind) -> list[KeyedRef]:
        # Nearly all streams but rooms have few keys.
        return await self._readers.seldom_many(
            lambda r, most: log_reads.current(r, shard, stream, kind, most), limit=log_reads.NO_LIMIT
        )

    async def current_at(
        self,
        shard: int,
        stream: str,
        kind: Kind,
        position: int,
        keys: Sequence[tuple[str, str]] | None = None,
    ) -> list[KeyedRef]:
        if keys is None:
            return await self._readers.run(
                lambda r: log_reads.current_at(r, shard, stream, kind, position), rows=SCAN
            )
        return await self._readers.run(
            lambda r: log_reads.keys_at(r, shard, stream, kind, position, keys), rows=len(keys)
        )

    async def streams_keyed(self, shards: range, kind: Kind, type: str, key: str) -> dict[str, Entry]:
        return await self._readers.run(
            lambda r: log_reads.streams_keyed(r, shards, kind, type, key), rows=SCAN
        )

    async def related(
        self,
        shard: int,
        stream: str,
        target: str,
        *,
        rel_type: str | None = None,
        type: str | None = None,
        sender: str | None = None,
        after: int | None = None,
        before: int | None = None,
        newest_first: bool = True,
        limit: int,
    ) -> list[Entry]:
        return await self._readers.run(
            lambda r: log_reads.related(
                r, shard, stream, target, rel_type, type, sender, after, before, newest_first, limit
            ),
            rows=SCAN,
        )

    async def with_relations(
        self,
        shard: int,
        stream: str,
        targets: Sequence[str],
        *,
        rel_type: str | None = None,
        sender: str | None = None,
    ) -> set[str]:
        # In many rooms nothing relates to anything, and that is known at once.
        if not await self._readers.run(lambda r: log_reads.has_relations(r, shard, stream), rows=1):
            return set()
        return await self._readers.run(
            lambda r: log_reads.with_relations(r, shard, stream, targets, rel_type, sender), rows=len(targets)
        )

    async def by_rel_type(
        self, shard: int, stream: str, rel_type: str, *, before: int | None = None, limit: int
    ) -> list[Entry]:
        return await self._readers.run(
            lambda r: log_reads.by_rel_type(r, shard, stream, rel_type, before, limit), rows=limit
        )

    async def near_time(self, shard: int, stream: str, ts: int, *, forwards: bool) -> Entry | None:
        return await self._readers.run(lambda r: log_reads.near_time(r, shard, stream, ts, forwards), rows=1)

    async def streams(self, shard: int, *, after: str = "", limit: int) -> list[str]:
        return await self._readers.run(lambda r: log_reads.streams(r, shard, after, limit), rows=SCAN)

    async def rewrite(self, shard: int, seq: int, body: bytes, meta: bytes) -> None:
        await self._writer.run(rewrite_entry(self._bodies, shard, seq, body, meta))

    async def remove(self, shard: int, seqs: Sequence[int]) -> None:
        for start in range(0, len(seqs), REMOVED_AT_ONCE):
            await self._writer.run(remove_entries(shard, seqs[start : start + REMOVED_AT_ONCE]))
