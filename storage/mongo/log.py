"""The log on MongoDB: see `commits` for appends, `log_reads` for reads, `removal` for what comes after."""

import time
from collections.abc import Sequence

from storage.log import Entry, KeyedRef, Kind, ShardMap
from storage.mongo import log_reads
from storage.mongo.commits import Commits
from storage.mongo.connection import Connection, whole
from storage.mongo.removal import remove_entries, rewrite_entry, sweep

REMOVED_AT_ONCE = 500
SWEPT_EVERY_S = 3600.0


class MongoLog:
    """Implements `storage.log.Log`."""

    def __init__(self, connection: Connection, shards: ShardMap) -> None:
        self._connection = connection
        self._shards = shards
        self._commits = Commits(connection)
        self._swept: dict[int, float] = {}

    async def append(self, shard: int, expected: int, entries: Sequence[Entry]) -> int:
        return await self._commits.append(shard, expected, entries)

    async def tail(self, shard: int) -> int:
        return await log_reads.tail(self._connection, shard)

    async def read(self, shard: int, after: int, limit: int) -> list[Entry]:
        return await log_reads.read(self._connection, shard, after, limit)

    async def entry(self, shard: int, seq: int) -> Entry | None:
        found = await log_reads.entries(self._connection, shard, (seq,))
        return found[0] if found else None

    async def entries(self, shard: int, seqs: Sequence[int]) -> list[Entry]:
        return await log_reads.entries(self._connection, shard, seqs)

    async def by_event_id(self, shard: int, event_ids: Sequence[str]) -> dict[str, Entry]:
        return await log_reads.by_event_id(self._connection, shard, event_ids)

    async def find_event(self, event_id: str) -> Entry | None:
        return await log_reads.find_event(self._connection, self._shards, event_id)

    async def by_txn(self, shard: int, txn: bytes) -> Entry | None:
        return await log_reads.by_txn(self._connection, shard, txn)

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
        return await log_reads.page(self._connection, shard, stream, kind, after, before, newest_first, limit)

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
        return await log_reads.keyed(
            self._connection, shard, stream, kind, type, key, after, before, newest_first, limit
        )

    async def current(self, shard: int, stream: str, kind: Kind) -> list[KeyedRef]:
        return await log_reads.current(self._connection, shard, stream, kind)

    async def current_at(
        self,
        shard: int,
        stream: str,
        kind: Kind,
        position: int,
        keys: Sequence[tuple[str, str]] | None = None,
    ) -> list[KeyedRef]:
        return await log_reads.current(self._connection, shard, stream, kind, position, keys)

    async def streams_keyed(self, shards: range, kind: Kind, type: str, key: str) -> dict[str, Entry]:
        return await log_reads.streams_keyed(self._connection, shards, kind, type, key)

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
        return await log_reads.related(
            self._connection,
            shard,
            stream,
            target,
            rel_type,
            type,
            sender,
            after,
            before,
            newest_first,
            limit,
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
        return await log_reads.with_relations(self._connection, shard, stream, targets, rel_type, sender)

    async def by_rel_type(
        self, shard: int, stream: str, rel_type: str, *, before: int | None = None, limit: int
    ) -> list[Entry]:
        return await log_reads.by_rel_type(self._connection, shard, stream, rel_type, before, limit)

    async def near_time(self, shard: int, stream: str, ts: int, *, forwards: bool) -> Entry | None:
        return await log_reads.near_time(self._connection, shard, stream, ts, forwards)

    async def streams(self, shard: int, *, after: str = "", limit: int) -> list[str]:
        return await log_reads.streams(self._connection, shard, after, limit)

    async def rewrite(self, shard: int, seq: int, body: bytes, meta: bytes) -> None:
        await whole(rewrite_entry(self._connection, shard, seq, body, meta))

    async def remove(self, shard: int, seqs: Sequence[int]) -> None:
        for start in range(0, len(seqs), REMOVED_AT_ONCE):
            await whole(remove_entries(self._connection, shard, seqs[start : start + REMOVED_AT_ONCE]))
        now = time.monotonic()
        if now - self._swept.get(shard, now - SWEPT_EVERY_S) >= SWEPT_EVERY_S:
            self._swept[shard] = now
            await whole(sweep(self._connection, shard))

    def known_tails(self) -> dict[int, int]:
        """Where shards end by what was appended here lately."""
        return self._commits.tails()

    async def close(self) -> None:
        """Finish the appends under way."""
        await self._commits.close()
