"""The log's indexed reads, each a function of a `Connection`.

Each query names its index, so that none can fall back on walking the collection; `schema` says what the
indexes are made of.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from storage.log import Entry, KeyedRef, Kind, ShardMap
from storage.mongo.connection import Connection, Document
from storage.mongo.documents import REF_FIELDS, slot, to_entries, to_entry, to_ref
from storage.mongo.schema import (
    BY_EVENT,
    BY_HOLDER,
    BY_ID,
    BY_PARENT,
    BY_POSITION,
    BY_REL_TYPE,
    BY_SLOT,
    BY_TIME,
    BY_TXN,
    LOG,
    MAX_SEQ,
    has,
    line_of,
    row_id,
)

PRESENT = has("kind")
"""True of entries, false of what is left of removed ones."""


async def tail(connection: Connection, shard: int) -> int:
    """The last number that was given: what is left of a removed entry counts."""
    where = {"_id": {"$gte": row_id(shard, 0), "$lte": row_id(shard, MAX_SEQ)}, "shard": shard}
    newest = await connection.find(LOG, where, hint=BY_ID, sort=[("_id", -1)], limit=1, fields={"_id": 1})
    return newest[0]["_id"] & MAX_SEQ if newest else 0


async def read(connection: Connection, shard: int, after: int, limit: int) -> list[Entry]:
    ids = {"$gt": row_id(shard, after), "$lte": row_id(shard, MAX_SEQ)}
    where = {"_id": ids, "shard": shard, **PRESENT}
    return to_entries(await connection.find(LOG, where, hint=BY_ID, sort=[("_id", 1)], limit=limit))


async def entries(connection: Connection, shard: int, seqs: Sequence[int]) -> list[Entry]:
    ids = list({row_id(shard, seq) for seq in seqs})
    where = {"_id": {"$in": ids}, "shard": shard, **PRESENT}
    found = {entry.seq: entry for entry in to_entries(await connection.find(LOG, where, hint=BY_ID))}
    return [found[seq] for seq in seqs if seq in found]


async def by_event_id(connection: Connection, shard: int, event_ids: Sequence[str]) -> dict[str, Entry]:
    where = {"shard": shard, "event_id": {"$in": list(event_ids)}}
    found = to_entries(await connection.find(LOG, where, hint=BY_EVENT))
    return {entry.event_id: entry for entry in found if entry.event_id is not None}


async def find_event(connection: Connection, shards: ShardMap, event_id: str) -> Entry | None:
    where = {"shard": {"$in": list(shards.room_shards())}, "event_id": event_id}
    return await _only(connection, where, hint=BY_EVENT)


async def by_txn(connection: Connection, shard: int, txn: bytes) -> Entry | None:
    return await _only(connection, {"shard": shard, "txn": txn}, hint=BY_TXN)


async def page(
    connection: Connection,
    shard: int,
    stream: str,
    kind: Kind,
    after: int | None,
    before: int | None,
    newest_first: bool,
    limit: int,
) -> list[Entry]:
    where = {"shard": shard, "stream": stream, "kind": kind.value, **_between(after, before)}
    return await _by_position(connection, where, BY_POSITION, newest_first, limit)


async def keyed(
    connection: Connection,
    shard: int,
    stream: str,
    kind: Kind,
    type: str,
    key: str,
    after: int | None,
    before: int | None,
    newest_first: bool,
    limit: int,
) -> list[Entry]:
    where = {"shard": shard, "stream": stream, "line": line_of(kind), "slot": slot(type, key)}
    return await _by_position(connection, where | _between(after, before), BY_SLOT, newest_first, limit)


async def current(
    connection: Connection,
    shard: int,
    stream: str,
    kind: Kind,
    position: int | None = None,
    keys: Sequence[tuple[str, str]] | None = None,
) -> list[KeyedRef]:
    """The newest entry in each slot, or in those of `keys`; at or before `position` if one is given.

    The server leaps from slot to slot in the index: what this costs follows the number of slots, not that
    of changes or messages.
    """
    where: dict[str, Any] = {"shard": shard, "stream": stream, "line": line_of(kind)}
    if keys is not None:
        where["slot"] = {"$in": [slot(type, key) for type, key in keys]}
    if position is not None:
        where["pos"] = {"$lte": position}
    newest = await _newest_of_each(connection, where, "slot", hint=BY_SLOT)
    return [to_ref(document) for document in newest]


async def streams_keyed(
    connection: Connection, shards: range, kind: Kind, type: str, key: str
) -> dict[str, Entry]:
    """What this costs follows the number of changes under the key; in one shard, that of streams.

    Sorted by all fields of the index: by fewer, the server would merge a walk for each shard, or sort.
    """
    where = {"shard": {"$in": list(shards)}, "line": line_of(kind), "slot": slot(type, key)}
    pipeline: list[Document] = [
        {"$match": where},
        {"$sort": {"shard": -1, "line": -1, "slot": -1, "stream": -1, "pos": -1}},
        {"$group": {"_id": "$stream", "newest": {"$first": "$$ROOT"}}},
    ]
    groups = await connection.aggregate(LOG, pipeline, hint=BY_HOLDER)
    return {group["_id"]: to_entry(group["newest"]) for group in groups}


async def related(
    connection: Connection,
    shard: int,
    stream: str,
    target: str,
    rel_type: str | None,
    type: str | None,
    sender: str | None,
    after: int | None,
    before: int | None,
    newest_first: bool,
    limit: int,
) -> list[Entry]:
    where = {"shard": shard, "stream": stream, "parent": target, **_between(after, before)}
    where |= _given(rel_type=rel_type, type=type, sender=sender)
    return await _by_position(connection, where | EVENTS, BY_PARENT, newest_first, limit)


async def with_relations(
    connection: Connection,
    shard: int,
    stream: str,
    targets: Sequence[str],
    rel_type: str | None,
    sender: str | None,
) -> set[str]:
    where: Document = {"shard": shard, "stream": stream, "parent": {"$in": list(targets)}}
    where |= _given(rel_type=rel_type, sender=sender)
    pipeline: list[Document] = [{"$match": where}, {"$group": {"_id": "$parent"}}]
    return {found["_id"] for found in await connection.aggregate(LOG, pipeline, hint=BY_PARENT)}


async def by_rel_type(
    connection: Connection, shard: int, stream: str, rel_type: str, before: int | None, limit: int
) -> list[Entry]:
    where = {"shard": shard, "stream": stream, "rel_type": rel_type, **_between(None, before)}
    return await _by_position(connection, where | EVENTS, BY_REL_TYPE, True, limit)


async def near_time(connection: Connection, shard: int, stream: str, ts: int, forwards: bool) -> Entry | None:
    where = {"shard": shard, "stream": stream, "ts": {"$gte" if forwards else "$lte": ts}, **EVENTS}
    return await _only(connection, where, hint=BY_TIME, sort=[("ts", 1 if forwards else -1)])


async def streams(connection: Connection, shard: int, after: str, limit: int) -> list[str]:
    pipeline: list[Document] = [
        {"$match": {"shard": shard, "stream": {"$gt": after}}},
        {"$group": {"_id": "$stream"}},
        {"$sort": {"_id": 1}},
        {"$limit": limit},
    ]
    return [found["_id"] for found in await connection.aggregate(LOG, pipeline, hint=BY_POSITION)]


EVENTS = {"kind": Kind.EVENT.value}


def _given(**fields: str | None) -> Document:
    """Those of some fields that are asked for."""
    return {name: value for name, value in fields.items() if value is not None}


def _between(after: int | None, before: int | None) -> dict[str, Any]:
    bounds = {sign: bound for sign, bound in (("$gt", after), ("$lt", before)) if bound is not None}
    return {"pos": bounds} if bounds else {}


async def _by_position(
    connection: Connection, where: Mapping[str, Any], hint: str, newest_first: bool, limit: int
) -> list[Entry]:
    sort = [("pos", -1 if newest_first else 1)]
    return to_entries(await connection.find(LOG, where, hint=hint, sort=sort, limit=limit))


async def _only(
    connection: Connection,
    where: Mapping[str, Any],
    *,
    hint: str,
    sort: Sequence[tuple[str, int]] | None = None,
) -> Entry | None:
    found = to_entries(await connection.find(LOG, where, hint=hint, sort=sort, limit=1))
    return found[0] if found else None


async def _newest_of_each(
    connection: Connection, where: Mapping[str, Any], field: str, *, hint: str
) -> list[dict[str, Any]]:
    """Of the entries where something holds, those with the highest position for each value of a field."""
    pipeline: list[Document] = [
        {"$match": where},
        {"$sort": {field: -1, "pos": -1}},
        {"$group": {"_id": f"${field}", "newest": {"$first": REF_FIELDS}}},
    ]
    return [group["newest"] for group in await connection.aggregate(LOG, pipeline, hint=hint)]
