"""What a batch of appends wants to store and the log has already: the same event, the same transaction.

The indexes hold prefixes only, so it is not SQLite that refuses doubles but the one writer, which asks
for a whole batch at once.
"""

import sqlite3
from collections.abc import Collection, Sequence
from functools import cache

from storage.errors import Duplicate
from storage.log import Entry
from storage.sqlite.event_ids import Packed, prefix
from storage.sqlite.schema import EVENT_PREFIX, MAX_SEQ, SEQ_BITS, TXN_PREFIX
from storage.sqlite.statements import padded, placeholders

TXN_PREFIX_BYTES = 8


class Doubles:
    """Knows where each of these event ids and transactions is, by shard; told of what is added."""

    def __init__(
        self, db: sqlite3.Connection, event_ids: Collection[Packed], txns: Collection[bytes]
    ) -> None:
        self._events: dict[tuple[int, Packed], int] = {}
        self._txns: dict[tuple[int, Packed], int] = {}
        events_by, txns_by = set(map(prefix, event_ids)), {txn[:TXN_PREFIX_BYTES] for txn in txns}
        _look_up(db, "event_id", EVENT_PREFIX, events_by, self._events)
        _look_up(db, "txn", TXN_PREFIX, txns_by, self._txns)

    def among(
        self, shard: int, entries: Sequence[Entry], event_ids: Sequence[Packed | None]
    ) -> Duplicate | None:
        """The first of the entries, whose packed ids are given too, that would be double in the shard."""
        events: set[Packed] = set()
        txns: set[bytes] = set()
        for index, (entry, event_id) in enumerate(zip(entries, event_ids, strict=True)):
            if event_id is not None:
                seq = 0 if event_id in events else self._events.get((shard, event_id))
                if seq is not None:
                    return Duplicate(index, seq, "event_id")
                events.add(event_id)
            if entry.txn is not None:
                seq = 0 if entry.txn in txns else self._txns.get((shard, entry.txn))
                if seq is not None:
                    return Duplicate(index, seq, "txn")
                txns.add(entry.txn)
        return None

    def add(self, shard: int, seq: int, event_id: Packed | None, txn: bytes | None) -> None:
        """An entry that is going to be in the log."""
        if event_id is not None:
            self._events[shard, event_id] = seq
        if txn is not None:
            self._txns[shard, txn] = seq


def _look_up(
    db: sqlite3.Connection,
    column: str,
    indexed: str,
    prefixes: set[Packed] | set[bytes],
    found: dict[tuple[int, Packed], int],
) -> None:
    for chunk in padded(prefixes):
        for number, value in db.execute(_with_prefixes(column, indexed, len(chunk)), chunk):
            found[number >> SEQ_BITS, value] = number & MAX_SEQ


@cache
def _with_prefixes(column: str, indexed: str, count: int) -> str:
    return (
        f"SELECT id, {column} FROM entry WHERE {column} IS NOT NULL AND {indexed} IN ({placeholders(count)})"
    )
