"""What may happen to entries after they were appended: another body, or none, or no entry at all.

Where an entry was removed, its number stays behind by itself. Were it free again, a writer that has slept
could store something under it, behind everybody's back; and it keeps the tail from going back. After
`KEPT_MS`, when no writer can be that far behind, numbers below the tail are swept out. The time is that of
the database: a server whose clock jumped would sweep too soon.
"""

from collections.abc import Sequence

from storage.mongo import log_reads
from storage.mongo.connection import Connection
from storage.mongo.faults import reading, writing
from storage.mongo.schema import BY_ID, BY_REMOVAL, LOG, row_id

KEPT_MS = 7 * 24 * 3600 * 1000


async def rewrite_entry(connection: Connection, shard: int, seq: int, body: bytes, meta: bytes) -> None:
    changes: dict[str, dict[str, bytes]] = {}
    for field, content in (("body", body), ("meta", meta)):
        changes.setdefault("$set" if content else "$unset", {})[field] = content
    where = {"_id": row_id(shard, seq), "shard": shard, **log_reads.PRESENT}
    with writing():
        async with connection.session() as session:
            await connection.database[LOG].update_one(where, changes, session=session)


async def remove_entries(connection: Connection, shard: int, seqs: Sequence[int]) -> None:
    where = {"_id": {"$in": [row_id(shard, seq) for seq in seqs]}, "shard": shard, **log_reads.PRESENT}
    number_only = [{"$replaceWith": {"_id": "$_id", "shard": "$shard", "removed": {"$toLong": "$$NOW"}}}]
    with writing():
        async with connection.session() as session:
            await connection.database[LOG].update_many(where, number_only, hint=BY_ID, session=session)


async def sweep(connection: Connection, shard: int) -> None:
    """Give up the numbers of entries that were removed long ago."""
    tail = await log_reads.tail(connection, shard)
    with reading():
        long_ago = await connection.server_time() - KEPT_MS
    where = {"shard": shard, "removed": {"$lt": long_ago}, "_id": {"$lt": row_id(shard, tail)}}
    with writing():
        async with connection.session() as session:
            await connection.database[LOG].delete_many(where, hint=BY_REMOVAL, session=session)
