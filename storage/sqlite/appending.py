"""Appends inside the writer's transaction: who is first, what is double, and the rows that come of it."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from storage.errors import Conflict, Duplicate, StoreError, StoreUnavailable
from storage.log import Entry, Kind
from storage.sqlite.bodies import Bodies
from storage.sqlite.event_ids import Packed, pack, prefix
from storage.sqlite.names import WrittenNames
from storage.sqlite.schema import EVENT_PREFIX, MAX_SEQ, SEQ_BITS, TXN_PREFIX, line_of, row_id
from storage.sqlite.statements import halving, padded, placeholders, values_list

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
        known = self._known(appends)
        rows: list[Row] = []
        current: dict[tuple[int, int, int, int], Row] = {}
        outcomes: list[int | StoreError] = []
        for append in appends:
            error = self._refusal(append, known)
            if error is not None:
                outcomes.append(error)
                continue
            seq = append.expected
            for entry in append.entries:
                seq += 1
                row = self._row(append.shard, seq, entry)
                rows.append(row)
                _note(known, append.shard, seq, entry)
                if row[4] is not None and row[5] is not None:
                    _note_current(current, row)
            self._tails[append.shard] = seq
            outcomes.append(seq)
        self._insert(rows, current.values())
        return outcomes

    def _refusal(self, append: Append, known: "_Known") -> StoreError | None:
        tail = self._tail(append.shard)
        if append.expected != tail:
            return Conflict(append.shard, tail)
        if tail + len(append.entries) > MAX_SEQ:
            return StoreUnavailable(f"Shard {append.shard} is full")
        seen: _Known = {}
        for index, entry in enumerate(append.entries):
            for by, value in _identities(entry):
                seq = known.get((append.shard, value))
                if seq is None and (append.shard, value) in seen:
                    seq = 0
                if seq is not None:
                    return Duplicate(index, seq, by)
                seen[append.shard, value] = 0
        return None

    def _known(self, appends: Iterable[Append]) -> "_Known":
        """Which of the event ids and transactions are in the log, in any shard."""
        known: _Known = {}
        entries = [entry for append in appends for entry in append.entries]
        events = {prefix(pack(e.event_id)) for e in entries if e.event_id is not None}
        txns = {e.txn[:8] for e in entries if e.txn is not None}
        for column, expression, values in (("event_id", EVENT_PREFIX, events), ("txn", TXN_PREFIX, txns)):
            for chunk in padded(values):
                for number, value in self._db.execute(
                    f"SELECT id, {column} FROM entry"
                    f" WHERE {column} IS NOT NULL AND {expression} IN ({placeholders(len(chunk))})",
                    chunk,
                ):
                    known[number >> SEQ_BITS, (column, value)] = number & MAX_SEQ
        return known

    def _tail(self, shard: int) -> int:
        tail = self._tails.get(shard)
        if tail is None:
            tail = self._tails[shard] = read_tail(self._db, shard)
        return tail

    def _row(self, shard: int, seq: int, entry: Entry) -> Row:
        id_of = self._names.id_of
        content, dictionary = self._bodies.pack(entry.body + entry.meta)
        return (
            row_id(shard, seq),
            id_of(entry.stream, shard),
            entry.kind.value,
            seq if entry.pos is None else entry.pos,
            None if entry.type is None else id_of(entry.type),
            None if entry.key is None else id_of(entry.key),
            None if entry.sender is None else id_of(entry.sender),
            None if entry.event_id is None else pack(entry.event_id),
            None if entry.target is None else pack(entry.target),
            None if entry.rel_type is None else id_of(entry.rel_type),
            entry.txn,
            entry.ts,
            len(entry.meta) or None,
            dictionary,
            content,
        )

    def _insert(self, rows: Sequence[Row], current: Iterable[Row]) -> None:
        for run in halving(rows, ROWS_PER_INSERT):
            self._db.execute(
                f"INSERT INTO entry ({_ENTRY_COLUMNS}) VALUES {values_list(len(run[0]), len(run))}",
                [value for row in run for value in row],
            )
        upsert_current(self._db, list(current))


def upsert_current(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Make these the newest entries under their keys, where they are (backfilled ones are not)."""
    for run in halving(rows, ROWS_PER_INSERT):
        db.execute(
            f"INSERT INTO current ({_CURRENT_COLUMNS}) VALUES {values_list(len(run[0]), len(run))}"
            " ON CONFLICT (stream, line, type, key) DO UPDATE SET id = excluded.id, pos = excluded.pos,"
            " kind = excluded.kind, event_id = excluded.event_id, sender = excluded.sender"
            " WHERE (excluded.pos, excluded.id) > (current.pos, current.id)",
            [value for row in run for value in row],
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


_Known = dict[tuple[int, tuple[str, Packed]], int]
"""(shard, what must be unique in it) → seq."""


def _identities(entry: Entry) -> Iterable[tuple[str, tuple[str, Packed]]]:
    if entry.event_id is not None:
        yield "event_id", ("event_id", pack(entry.event_id))
    if entry.txn is not None:
        yield "txn", ("txn", entry.txn)


def _note(known: _Known, shard: int, seq: int, entry: Entry) -> None:
    for _, value in _identities(entry):
        known[shard, value] = seq


def _note_current(current: dict[tuple[int, int, int, int], Row], row: Row) -> None:
    number, stream, kind, pos, type, key, sender, event_id, target = row[:9]
    line = line_of(Kind(kind))
    at = (stream, line, type, key)
    newest = current.get(at)
    if newest is None or (pos, number) > (newest[5], newest[4]):
        value = target if event_id is None else event_id
        current[at] = (*at, number, pos, kind, value, sender)
