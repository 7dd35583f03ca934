"""The log's indexed reads, each a function of a `Reader`."""

import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from storage.log import Entry, KeyedRef, Kind
from storage.sqlite.event_ids import pack, prefix, unpack
from storage.sqlite.readers import Reader
from storage.sqlite.schema import (
    EVENT_PREFIX,
    LINE,
    MAX_SEQ,
    SEQ_BITS,
    TARGET_PREFIX,
    TXN_PREFIX,
    line_of,
    prefix_of,
    row_id,
)
from storage.sqlite.statements import MAX_VALUES, halving, padded, placeholders, values_list

Row = tuple[Any, ...]

LOWEST, HIGHEST = -(1 << 62), 1 << 62
"""Bounds of positions beyond all that are given."""

NO_LIMIT = sys.maxsize
NO_NAME = 0
"""The number of a name that is nowhere in the store."""

_KINDS = {kind.value: kind for kind in Kind}
_ENTRY = (
    "SELECT id, kind, stream, content, meta_size, dictionary, event_id, type, key, sender, target,"
    " rel_type, txn, ts, pos FROM entry"
)
_NAMES = (2, 7, 8, 9, 11)
"""Which columns of `_ENTRY` are numbers of names."""
_REF = "type, key, id, pos, kind, event_id, sender"


def _ordered(sql: str, column: str = "pos") -> tuple[str, str]:
    """The same statement oldest first and newest first: pick by `newest_first`."""
    return f"{sql} ORDER BY {column} LIMIT ?", f"{sql} ORDER BY {column} DESC LIMIT ?"


_READ = f"{_ENTRY} WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
_BY_ID = f"{_ENTRY} WHERE id = ?"
_BY_TXN = f"{_ENTRY} WHERE txn IS NOT NULL AND {TXN_PREFIX} = ? AND txn = ? AND id BETWEEN ? AND ?"
_PAGE = _ordered(f"{_ENTRY} WHERE stream = ? AND kind = ? AND pos > ? AND pos < ?")
_KEYED = _ordered(
    f"{_ENTRY} WHERE stream = ? AND {LINE} = ? AND type = ? AND key = ? AND pos > ? AND pos < ?"
)
_CURRENT = f"SELECT {_REF} FROM current WHERE stream = ? AND line = ? LIMIT ?"
_NEWEST_KEYED = (
    f"SELECT id FROM entry WHERE stream = {{stream}} AND {LINE} = {{line}} AND type = {{type}}"
    " AND key = {key} AND pos <= {position} ORDER BY pos DESC, id DESC LIMIT 1"
)
_REF_OF_ENTRY = "e.type, e.key, e.id, e.pos, e.kind, ifnull(e.event_id, e.target), e.sender"
_CURRENT_AT = (
    f"SELECT {_REF} FROM current WHERE stream = ?1 AND line = ?2 AND pos <= ?3 UNION ALL "
    f"SELECT {_REF_OF_ENTRY} FROM current c JOIN entry e ON e.id = ("
    + _NEWEST_KEYED.format(stream="?1", line="?2", type="c.type", key="c.key", position="?3")
    + ") WHERE c.stream = ?1 AND c.line = ?2 AND c.pos > ?3"
)
_STREAMS_KEYED = (
    f"{_ENTRY} WHERE id IN"
    " (SELECT id FROM current WHERE key = ? AND type = ? AND line = ? AND id BETWEEN ? AND ?)"
)
_RELATED = _ordered(
    f"{_ENTRY} WHERE stream = ? AND rel_type IS NOT NULL AND {TARGET_PREFIX} = ? AND pos > ? AND pos < ?"
    " AND (?5 IS NULL OR rel_type = ?5) AND (?6 IS NULL OR type = ?6) AND (?7 IS NULL OR sender = ?7)"
    " AND target = ?8"
    f" AND kind = {Kind.EVENT:d}"
)
_BY_REL_TYPE = (
    f"{_ENTRY} WHERE stream = ? AND rel_type = ? AND pos < ? AND kind = {Kind.EVENT:d}"
    " ORDER BY pos DESC LIMIT ?"
)
_HAS_RELATIONS = (
    "SELECT 1 FROM entry INDEXED BY entry_by_rel_type WHERE stream = ? AND rel_type IS NOT NULL LIMIT 1"
)
_NEAR_TIME = (
    f"{_ENTRY} WHERE stream = ? AND kind = {Kind.EVENT:d} AND ts <= ? ORDER BY ts DESC, id DESC LIMIT 1",
    f"{_ENTRY} WHERE stream = ? AND kind = {Kind.EVENT:d} AND ts >= ? ORDER BY ts, id LIMIT 1",
)
_STREAMS = (
    "SELECT text FROM name WHERE shard = ? AND text > ?"
    " AND EXISTS (SELECT 1 FROM entry WHERE stream = name.id) ORDER BY text LIMIT ?"
)


@cache
def _by_ids(count: int) -> str:
    return f"{_ENTRY} WHERE id IN ({placeholders(count)})"


@cache
def _by_event_ids(count: int) -> str:
    return (
        f"{_ENTRY} WHERE event_id IS NOT NULL AND {EVENT_PREFIX} IN ({placeholders(count)})"
        " AND id BETWEEN ? AND ?"
    )


@cache
def _keys_at(count: int) -> str:
    newest = _NEWEST_KEYED.format(
        stream="?", line="?", type="asked.column1", key="asked.column2", position="?"
    )
    return (
        f"SELECT {_REF_OF_ENTRY} FROM (VALUES {values_list(2, count)}) AS asked"
        f" JOIN entry e ON e.id = ({newest})"
    )


@cache
def _with_relations(count: int) -> str:
    return (
        f"SELECT column1 FROM (VALUES {values_list(1, count)}) AS asked WHERE EXISTS ("
        "SELECT 1 FROM entry INDEXED BY entry_by_target WHERE stream = ? AND rel_type IS NOT NULL"
        " AND (? IS NULL OR rel_type = ?) AND (? IS NULL OR sender = ?)"
        f" AND {TARGET_PREFIX} = {prefix_of('column1')} AND target = column1)"
    )


def to_entries(reader: Reader, rows: Sequence[Row]) -> list[Entry]:
    if not rows:
        return []
    columns = list(zip(*rows, strict=True))
    names = (columns[place] for place in _NAMES)
    texts = reader.names.texts_of(reader.db, set().union(*names))
    unpack_body = reader.bodies.unpack
    entries = []
    for (
        number, kind, stream, content, meta_size, dictionary, event_id, type, key, sender, target,
        rel_type, txn, ts, pos,
    ) in rows:  # fmt: skip
        data = unpack_body(content, dictionary)
        seq = number & MAX_SEQ
        entries.append(
            Entry(
                _KINDS.get(kind, Kind.UNKNOWN),
                texts[stream],  # type: ignore[arg-type]
                data[:-meta_size] if meta_size else data,
                None if event_id is None else unpack(event_id),
                texts[type],
                texts[key],
                texts[sender],
                None if target is None else unpack(target),
                texts[rel_type],
                txn,
                ts,
                data[-meta_size:] if meta_size else b"",
                None if pos == seq else pos,
                seq,
            )
        )
    return entries


def to_refs(reader: Reader, rows: Sequence[Row]) -> list[KeyedRef]:
    texts = reader.names.texts_of(reader.db, {number for row in rows for number in (row[0], row[1], row[6])})
    return [
        KeyedRef(
            texts[type],  # type: ignore[arg-type]
            texts[key],  # type: ignore[arg-type]
            number & MAX_SEQ,
            pos,
            None if event_id is None else unpack(event_id),
            texts[sender],
            _KINDS.get(kind, Kind.UNKNOWN),
        )
        for type, key, number, pos, kind, event_id, sender in rows
    ]


def read(reader: Reader, shard: int, after: int, limit: int) -> list[Entry]:
    bounds = (row_id(shard, after), row_id(shard, MAX_SEQ), limit)
    return to_entries(reader, reader.db.execute(_READ, bounds).fetchall())


def entry(reader: Reader, shard: int, seq: int) -> Entry | None:
    return _only(reader, _BY_ID, (row_id(shard, seq),))


def entries(reader: Reader, shard: int, seqs: Sequence[int]) -> list[Entry]:
    rows: dict[int, Row] = {}
    for chunk in padded({row_id(shard, seq) for seq in seqs}):
        for row in reader.db.execute(_by_ids(len(chunk)), chunk):
            rows[row[0]] = row
    found = (rows.get(row_id(shard, seq)) for seq in seqs)
    return to_entries(reader, [row for row in found if row is not None])


def by_event_id(reader: Reader, event_ids: Iterable[str], lowest: int, highest: int) -> dict[str, Entry]:
    """Events by id among the row ids from `lowest` to `highest`."""
    wanted = {pack(event_id) for event_id in event_ids}
    rows: list[Row] = []
    for chunk in padded({prefix(packed) for packed in wanted}):
        rows.extend(reader.db.execute(_by_event_ids(len(chunk)), (*chunk, lowest, highest)))
    found = to_entries(reader, [row for row in rows if row[6] in wanted])
    return {entry.event_id: entry for entry in found if entry.event_id is not None}


def by_txn(reader: Reader, shard: int, txn: bytes) -> Entry | None:
    return _only(reader, _BY_TXN, (txn[:8], txn, row_id(shard, 0), row_id(shard, MAX_SEQ)))


def page(
    reader: Reader,
    shard: int,
    stream: str,
    kind: Kind,
    after: int | None,
    before: int | None,
    newest_first: bool,
    limit: int,
) -> list[Entry]:
    number = reader.names.id_of(reader.db, stream, shard)
    if number is None:
        return []
    values = (number, kind.value, *_bounds(after, before), limit)
    return to_entries(reader, reader.db.execute(_PAGE[newest_first], values).fetchall())


def keyed(
    reader: Reader,
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
    numbers = _numbers(reader, shard, stream, type, key)
    if numbers is None:
        return []
    values = (numbers[0], line_of(kind), *numbers[1:], *_bounds(after, before), limit)
    return to_entries(reader, reader.db.execute(_KEYED[newest_first], values).fetchall())


def current(reader: Reader, shard: int, stream: str, kind: Kind, limit: int) -> list[KeyedRef]:
    number = reader.names.id_of(reader.db, stream, shard)
    return to_refs(reader, reader.db.execute(_CURRENT, (number, line_of(kind), limit)).fetchall())


def current_at(reader: Reader, shard: int, stream: str, kind: Kind, position: int) -> list[KeyedRef]:
    number = reader.names.id_of(reader.db, stream, shard)
    return to_refs(reader, reader.db.execute(_CURRENT_AT, (number, line_of(kind), position)).fetchall())


def keys_at(
    reader: Reader, shard: int, stream: str, kind: Kind, position: int, keys: Iterable[tuple[str, str]]
) -> list[KeyedRef]:
    known = (_numbers(reader, shard, stream, type, key) for type, key in dict.fromkeys(keys))
    asked = [numbers for numbers in known if numbers is not None]
    rows: list[Row] = []
    for run in halving(asked, MAX_VALUES):
        values = [number for _, *type_and_key in run for number in type_and_key]
        rows.extend(reader.db.execute(_keys_at(len(run)), (*values, run[0][0], line_of(kind), position)))
    return to_refs(reader, rows)


def streams_keyed(reader: Reader, shards: range, kind: Kind, type: str, key: str) -> dict[str, Entry]:
    ids = (reader.names.id_of(reader.db, key), reader.names.id_of(reader.db, type))
    values = (*ids, line_of(kind), *whole_shards(shards[0], shards[-1]))
    found = to_entries(reader, reader.db.execute(_STREAMS_KEYED, values).fetchall())
    return {entry.stream: entry for entry in found}


def related(
    reader: Reader,
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
    numbers = _numbers_of(reader, rel_type, type, sender)
    packed = pack(target)
    stream_number = reader.names.id_of(reader.db, stream, shard)
    values = (stream_number, prefix(packed), *_bounds(after, before), *numbers, packed, limit)
    return to_entries(reader, reader.db.execute(_RELATED[newest_first], values).fetchall())


def has_relations(reader: Reader, shard: int, stream: str) -> bool:
    number = reader.names.id_of(reader.db, stream, shard)
    return reader.db.execute(_HAS_RELATIONS, (number,)).fetchone() is not None


def with_relations(
    reader: Reader,
    shard: int,
    stream: str,
    targets: Sequence[str],
    rel_type: str | None,
    sender: str | None,
) -> set[str]:
    number = reader.names.id_of(reader.db, stream, shard)
    rel_number, sender_number = _numbers_of(reader, rel_type, sender)
    wanted = (number, rel_number, rel_number, sender_number, sender_number)
    found: set[str] = set()
    for chunk in padded([pack(target) for target in targets]):
        for (packed,) in reader.db.execute(_with_relations(len(chunk)), (*chunk, *wanted)):
            found.add(unpack(packed))
    return found


def by_rel_type(
    reader: Reader, shard: int, stream: str, rel_type: str, before: int | None, limit: int
) -> list[Entry]:
    number = reader.names.id_of(reader.db, stream, shard)
    rel_number = reader.names.id_of(reader.db, rel_type)
    values = (number, rel_number, HIGHEST if before is None else before, limit)
    return to_entries(reader, reader.db.execute(_BY_REL_TYPE, values).fetchall())


def near_time(reader: Reader, shard: int, stream: str, ts: int, forwards: bool) -> Entry | None:
    return _only(reader, _NEAR_TIME[forwards], (reader.names.id_of(reader.db, stream, shard), ts))


def streams(reader: Reader, shard: int, after: str, limit: int) -> list[str]:
    return [text for (text,) in reader.db.execute(_STREAMS, (shard, after, limit))]


def whole_shards(first: int, last: int) -> tuple[int, int]:
    """The row ids from shard `first` to `last`."""
    return first << SEQ_BITS, row_id(last, MAX_SEQ)


def _only(reader: Reader, sql: str, values: Sequence[Any]) -> Entry | None:
    rows = reader.db.execute(sql, values).fetchall()
    return to_entries(reader, rows)[0] if rows else None


def _bounds(after: int | None, before: int | None) -> tuple[int, int]:
    return LOWEST if after is None else after, HIGHEST if before is None else before


def _numbers_of(reader: Reader, *names: str | None) -> list[int | None]:
    """The numbers of some names, None for None."""
    return [None if name is None else reader.names.id_of(reader.db, name) or NO_NAME for name in names]


def _numbers(reader: Reader, shard: int, stream: str, type: str, key: str) -> tuple[int, int, int] | None:
    id_of = reader.names.id_of
    numbers = (id_of(reader.db, stream, shard), id_of(reader.db, type), id_of(reader.db, key))
    return None if None in numbers else numbers  # type: ignore[return-value]
