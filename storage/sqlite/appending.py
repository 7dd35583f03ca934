"""Appends inside the writer's transaction: who is first, what is double, and the rows that come of it."""

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from storage.errors import Conflict, StoreError, StoreUnavailable
from storage.log import Entry, Kind
from storage.sqlite.bodies import Bodies
from storage.sqlite.doubles import Doubles
from storage.sqlite.event_ids import Packed, pack
from storage.sqlite.names import WrittenNames
from storage.sqlite.schema import MAX_SEQ, line_of, row_id
from storage.sqlite.statements import halving, values_list

ROWS_PER_INSERT = 32

_ENTRY_COLUMNS = (
    "id, stream, kind, pos, type, key, sender, event_id, target, rel_type, txn, ts,"
    " meta_size, dictionary, content"
)
_CURRENT_COLUMNS = "stream, line, type, key, id, pos, kind, event_id, sender"

Row = tuple[Any, ...]


class Append:
    """A request to extend `shard`, whose tail must be `expected`."""

    __slots__ = ("entries", "expected", "shard")

    def __init__(self, shard: int, expected: int, entries: Sequence[Entry]) -> None:
        self.shard = shard
        self.expected = expected
        self.entries = entries


class Appender:
    """Keeps the tails of the shards, and the numbers of names, as the open transaction leaves them."""

    def __init__(self, db: sqlite3.Connection, bodies: Bodies) -> None:
        self._db = db
        self._names = WrittenNames(db)
        self._bodies = bodies
        self._tails: dict[int, int] = {}

    def forget(self) -> None:
        """The transaction was rolled back: what is in the file counts."""
        self._tails.clear()
        self._names.forget()

    def append(self, appends: Sequence[Append]) -> list[int | StoreError]:
        """The new tail for each that is stored, Conflict or Duplicate for the others."""
        packed = [_packed_ids(append.entries) for append in appends]
        doubles = Doubles(
            self._db,
            [event_id for ids in packed for event_id in ids if event_id is not None],
            [entry.txn for append in appends for entry in append.entries if entry.txn is not None],
        )
        accepted: list[tuple[int, int, Entry, Packed | None]] = []
        outcomes: list[int | StoreError] = []
        for append, event_ids in zip(appends, packed, strict=True):
            error = self._refusal(append) or doubles.among(append.shard, append.entries, event_ids)
            if error is not None:
                outcomes.append(error)
                continue
            seq = append.expected
            for entry, event_id in zip(append.entries, event_ids, strict=True):
                seq += 1
                accepted.append((append.shard, seq, entry, event_id))
                doubles.add(append.shard, seq, event_id, entry.txn)
            self._tails[append.shard] = seq
            outcomes.append(seq)
        contents = self._bodies.pack([entry.body + entry.meta for _, _, entry, _ in accepted])
        insert(self._db, [self._row(*of, *content) for of, content in zip(accepted, contents, strict=True)])
        return outcomes

    def _refusal(self, append: Append) -> StoreError | None:
        tail = self._tail(append.shard)
        if append.expected != tail:
            return Conflict(append.shard, tail)
        if tail + len(append.entries) > MAX_SEQ:
            return StoreUnavailable(f"Shard {append.shard} is full")
        return None

    def _tail(self, shard: int) -> int:
        tail = self._tails.get(shard)
        if tail is None:
            tail = self._tails[shard] = read_tail(self._db, shard)
        return tail

    def _row(
        self,
        shard: int,
        seq: int,
        entry: Entry,
        event_id: Packed | None,
        content: bytes,
        dictionary: int | None,
    ) -> Row:
        id_of = self._names.id_of
        return (
            row_id(shard, seq),
            id_of(entry.stream, shard),
            entry.kind.value,
            seq if entry.pos is None else entry.pos,
            None if entry.type is None else id_of(entry.type),
            None if entry.key is None else id_of(entry.key),
            None if entry.sender is None else id_of(entry.sender),
            event_id,
            None if entry.target is None else pack(entry.target),
            None if entry.rel_type is None else id_of(entry.rel_type),
            entry.txn,
            entry.ts,
            len(entry.meta) or None,
            dictionary,
            content,
        )


def _packed_ids(entries: Sequence[Entry]) -> list[Packed | None]:
    return [None if entry.event_id is None else pack(entry.event_id) for entry in entries]


def insert(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Store rows of entries, and make them current under their keys where they are the newest."""
    for run in halving(rows, ROWS_PER_INSERT):
        db.execute(_insert_entries(len(run)), list(chain.from_iterable(run)))
    newest: dict[tuple[int, int, int, int], Row] = {}
    for row in rows:
        number, stream, kind, pos, type, key, sender, event_id, target = row[:9]
        if type is None or key is None:
            continue
        at = (stream, line_of(Kind(kind)), type, key)
        known = newest.get(at)
        if known is None or (pos, number) > (known[5], known[4]):
            newest[at] = (*at, number, pos, kind, target if event_id is None else event_id, sender)
    for run in halving(list(newest.values()), ROWS_PER_INSERT):
        db.execute(_upsert_current(len(run)), list(chain.from_iterable(run)))


@cache
def _insert_entries(count: int) -> str:
    return f"INSERT INTO entry ({_ENTRY_COLUMNS}) VALUES {values_list(15, count)}"


@cache
def _upsert_current(count: int) -> str:
    return (
        f"INSERT INTO current ({_CURRENT_COLUMNS}) VALUES {values_list(9, count)}"
        " ON CONFLICT (stream, line, type, key) DO UPDATE SET id = excluded.id, pos = excluded.pos,"
        " kind = excluded.kind, event_id = excluded.event_id, sender = excluded.sender"
        " WHERE (excluded.pos, excluded.id) > (current.pos, current.id)"
    )


def read_tail(db: sqlite3.Connection, shard: int) -> int:
    """The last number ever given in a shard."""
    row = db.execute(
        "SELECT max(ifnull((SELECT max(id) & ? FROM entry WHERE id BETWEEN ? AND ?), 0),"
        " ifnull((SELECT tail FROM floor WHERE shard = ?), 0))",
        (MAX_SEQ, row_id(shard, 0), row_id(shard, MAX_SEQ), shard),
    ).fetchone()
    tail: int = row[0]
    return tail
