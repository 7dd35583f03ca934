"""Entries of the log as documents, and back.

A field that is not there stands for None, or for no bytes. `body` and `meta` are binary: exactly what was
signed, whatever it holds. A keyed entry has its type and key once more together, in `slot`, with its
`line`. What an entry refers to is its `parent` if that is a relation, else its `target`. `pos` is always
there, and so is `ts`.

Of an entry that was removed the number is left, with when that was: `_id`, `shard`, `removed` (ms).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bson import Int64

from storage.log import Entry, KeyedRef, Kind
from storage.mongo.schema import MAX_SEQ, line_of, row_id

Document = dict[str, Any]

_KINDS = {kind.value: kind for kind in Kind}

REF_FIELDS = {
    "_id": "$_id",
    "kind": "$kind",
    "pos": "$pos",
    "slot": "$slot",
    "event_id": {"$ifNull": ["$event_id", "$parent", "$target", None]},
    "sender": "$sender",
}
"""What `to_ref` needs of a document, as an expression."""


def slot(type: str, key: str) -> Document:
    return {"type": type, "key": key}


def to_document(shard: int, seq: int, entry: Entry) -> Document:
    document: Document = {
        "_id": row_id(shard, seq),
        "shard": shard,
        "stream": entry.stream,
        "kind": entry.kind.value,
        "pos": Int64(seq if entry.pos is None else entry.pos),
        "ts": Int64(entry.ts),
    }
    if entry.type is not None:
        document["type"] = entry.type
        if entry.key is not None:
            document["line"] = line_of(entry.kind)
            document["slot"] = slot(entry.type, entry.key)
    elif entry.key is not None:
        document["key"] = entry.key
    if entry.sender is not None:
        document["sender"] = entry.sender
    if entry.event_id is not None:
        document["event_id"] = entry.event_id
    if entry.rel_type is not None:
        document["rel_type"] = entry.rel_type
    if entry.target is not None:
        document["target" if entry.rel_type is None else "parent"] = entry.target
    if entry.txn is not None:
        document["txn"] = entry.txn
    if entry.body:
        document["body"] = entry.body
    if entry.meta:
        document["meta"] = entry.meta
    return document


def to_entry(document: Mapping[str, Any]) -> Entry:
    get = document.get
    seq = document["_id"] & MAX_SEQ
    pos = document["pos"]
    keyed = get("slot")
    rel_type = get("rel_type")
    return Entry(
        _KINDS.get(document["kind"], Kind.UNKNOWN),
        document["stream"],
        get("body", b""),
        get("event_id"),
        get("type"),
        get("key") if keyed is None else keyed["key"],
        get("sender"),
        get("target") if rel_type is None else get("parent"),
        rel_type,
        get("txn"),
        int(document["ts"]),
        get("meta", b""),
        None if pos == seq else int(pos),
        seq,
    )


def to_entries(documents: Sequence[Mapping[str, Any]]) -> list[Entry]:
    return [to_entry(document) for document in documents]


def to_ref(document: Mapping[str, Any]) -> KeyedRef:
    at = document["slot"]
    return KeyedRef(
        at["type"],
        at["key"],
        document["_id"] & MAX_SEQ,
        int(document["pos"]),
        document.get("event_id"),
        document.get("sender"),
        _KINDS.get(document["kind"], Kind.UNKNOWN),
    )
