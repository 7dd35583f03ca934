"""What may happen to entries after they were appended: another body, or none, or no entry at all."""

import sqlite3
from collections.abc import Callable, Sequence

from storage.sqlite.appending import read_tail
from storage.sqlite.bodies import Bodies
from storage.sqlite.schema import LINE, row_id
from storage.sqlite.statements import padded, placeholders

_UNDER_KEY = f"stream = ? AND {LINE} = ? AND type = ? AND key = ?"


def rewrite_entry(
    bodies: Bodies, shard: int, seq: int, body: bytes, meta: bytes
) -> Callable[[sqlite3.Connection], None]:
    def work(db: sqlite3.Connection) -> None:
        ((content, dictionary),) = bodies.pack([body + meta])
        db.execute(
            "UPDATE entry SET content = ?, dictionary = ?, meta_size = ? WHERE id = ?",
            (content, dictionary, len(meta) or None, row_id(shard, seq)),
        )

    return work


def remove_entries(shard: int, seqs: Sequence[int]) -> Callable[[sqlite3.Connection], None]:
    def work(db: sqlite3.Connection) -> None:
        db.execute(
            "INSERT INTO floor (shard, tail) VALUES (?1, ?2)"
            " ON CONFLICT (shard) DO UPDATE SET tail = excluded.tail",
            (shard, read_tail(db, shard)),
        )
        under: set[tuple[int, int, int, int]] = set()
        for chunk in padded({row_id(shard, seq) for seq in seqs}):
            removed = db.execute(
                f"DELETE FROM entry WHERE id IN ({placeholders(len(chunk))})"
                f" RETURNING stream, {LINE}, type, key",
                chunk,
            ).fetchall()
            under.update(at for at in removed if at[2] is not None and at[3] is not None)
        for at in under:
            _renew_current(db, at)

    return work


def _renew_current(db: sqlite3.Connection, at: tuple[int, int, int, int]) -> None:
    """The newest entry that is left under a key is now current there."""
    db.execute("DELETE FROM current WHERE stream = ? AND line = ? AND type = ? AND key = ?", at)
    db.execute(
        "INSERT INTO current (stream, line, type, key, id, pos, kind, event_id, sender)"
        f" SELECT stream, {LINE}, type, key, id, pos, kind, ifnull(event_id, target), sender FROM entry"
        f" WHERE {_UNDER_KEY} ORDER BY pos DESC, id DESC LIMIT 1",
        at,
    )
