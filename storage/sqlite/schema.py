"""What lies in the file, and the numbered steps that make it so.

`entry` is the log. Its `id` is `shard << 34 | seq`, so a shard is a range of row ids, and both fit
six bytes. Texts that come back again and again (streams, types, state keys, senders) are numbers of
`name`; a stream's name carries its shard, -1 stands for all other names. `current` is the newest
entry under each key, kept in the transaction that appends. `floor` remembers the tail of a shard
whose last entries were removed, so that no number is given twice.

Event ids and transactions are indexed by their first eight bytes, which saves 36 bytes per event
(of 616); so it is not a unique index that refuses doubles but the one writer (`doubles`).

Entries of kinds EVENT and STATE share one *line* of keys: the state of the room.
"""

import sqlite3
from collections.abc import Callable, Iterator

from storage.log import Kind

APPLICATION_ID = 0x57656674
"""Marks the file as a Weft store ("Weft")."""

SEQ_BITS = 34
MAX_SEQ = (1 << SEQ_BITS) - 1

NO_SHARD = -1
"""The shard of names that are not streams."""


def row_id(shard: int, seq: int) -> int:
    return shard << SEQ_BITS | seq


def line_of(kind: Kind) -> int:
    """Which line of keys an entry belongs to."""
    return Kind.EVENT if kind is Kind.STATE else kind


def prefix_of(column: str) -> str:
    """What ids are indexed by, see `event_ids.prefix`."""
    return f"CASE typeof({column}) WHEN 'blob' THEN substr({column}, 1, 8) ELSE {column} END"


EVENT_PREFIX = prefix_of("event_id")
TARGET_PREFIX = prefix_of("target")
TXN_PREFIX = "substr(txn, 1, 8)"
LINE = f"CASE kind WHEN {Kind.STATE:d} THEN {Kind.EVENT:d} ELSE kind END"

_FIRST = f"""
CREATE TABLE store (
    epoch TEXT NOT NULL,
    server_name TEXT NOT NULL,
    room_shards INTEGER NOT NULL,
    user_shards INTEGER NOT NULL,
    format INTEGER NOT NULL
);
CREATE TABLE dictionary (id INTEGER PRIMARY KEY, content BLOB NOT NULL UNIQUE);
CREATE TABLE name (
    id INTEGER PRIMARY KEY,
    shard INTEGER NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (shard, text)
);
CREATE TABLE entry (
    id INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    type INTEGER,
    key INTEGER,
    sender INTEGER,
    event_id BLOB,
    target BLOB,
    rel_type INTEGER,
    txn BLOB,
    ts INTEGER NOT NULL,
    meta_size INTEGER,
    dictionary INTEGER,
    content BLOB
);
CREATE INDEX entry_by_event ON entry ({EVENT_PREFIX}) WHERE event_id IS NOT NULL;
CREATE INDEX entry_by_txn ON entry ({TXN_PREFIX}) WHERE txn IS NOT NULL;
CREATE INDEX entry_by_position ON entry (stream, kind, pos);
CREATE INDEX entry_by_key ON entry (stream, {LINE}, type, key, pos) WHERE key IS NOT NULL;
CREATE INDEX entry_by_target ON entry (stream, {TARGET_PREFIX}, pos, rel_type, type)
    WHERE rel_type IS NOT NULL;
CREATE INDEX entry_by_rel_type ON entry (stream, rel_type, pos) WHERE rel_type IS NOT NULL;
CREATE INDEX entry_by_time ON entry (stream, ts) WHERE kind = {Kind.EVENT:d};
CREATE TABLE current (
    stream INTEGER NOT NULL,
    line INTEGER NOT NULL,
    type INTEGER NOT NULL,
    key INTEGER NOT NULL,
    id INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    event_id BLOB,
    sender INTEGER,
    PRIMARY KEY (stream, line, type, key)
) WITHOUT ROWID;
CREATE INDEX current_by_key ON current (key, type, line, id);
CREATE TABLE floor (shard INTEGER PRIMARY KEY, tail INTEGER NOT NULL);
"""


def _statements(script: str) -> Iterator[str]:
    return (statement for part in script.split(";") if (statement := part.strip()))


def _first(db: sqlite3.Connection) -> None:
    for statement in _statements(_FIRST):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


Migration = Callable[[sqlite3.Connection], None]

MIGRATIONS: tuple[Migration, ...] = (_first,)
"""Step n brings a file from version n to n + 1. Steps that were released are never changed."""


def migrate(db: sqlite3.Connection, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
    """Take the steps that the file has not seen, each in a transaction of its own."""
    done: int = db.execute("PRAGMA user_version").fetchone()[0]
    for number, step in enumerate(migrations[done:], start=done + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            step(db)
            db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
