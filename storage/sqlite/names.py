"""Texts that come back again and again are numbers in the file; these are the caches between the two.

A name keeps its number for ever, so what was read once stays true. The caches only grow until they
are full, and then start anew.
"""

import sqlite3
from collections.abc import Iterable

from storage.sqlite.schema import NO_SHARD
from storage.sqlite.statements import padded, placeholders

MAX_NAMES = 65_536

_ID_OF = "SELECT id FROM name WHERE shard = ? AND text = ?"


class WrittenNames:
    """The writer's side: gives new names a number, inside the transaction under way."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._ids: dict[tuple[int, str], int] = {}

    def id_of(self, text: str, shard: int = NO_SHARD) -> int:
        known = self._ids.get((shard, text))
        return known if known is not None else self._learn(text, shard)

    def forget(self) -> None:
        """The transaction was rolled back: its numbers were never given."""
        self._ids.clear()

    def _learn(self, text: str, shard: int) -> int:
        row = self._db.execute(_ID_OF, (shard, text)).fetchone()
        if row is None:
            row = self._db.execute(
                "INSERT INTO name (shard, text) VALUES (?, ?) RETURNING id", (shard, text)
            ).fetchall()[0]
        if len(self._ids) >= MAX_NAMES:
            self._ids.clear()
        number: int = row[0]
        self._ids[shard, text] = number
        return number


class ReadNames:
    """The readers' side, shared by their threads. Dicts handed out only ever grow."""

    def __init__(self) -> None:
        self.texts: dict[int | None, str | None] = {None: None}
        """Number → text, as far as known; None stands for itself."""
        self._ids: dict[tuple[int, str], int] = {}

    def id_of(self, db: sqlite3.Connection, text: str, shard: int = NO_SHARD) -> int | None:
        """The name's number, None when nothing was ever stored under it."""
        known = self._ids.get((shard, text))
        if known is not None:
            return known
        row = db.execute(_ID_OF, (shard, text)).fetchone()
        if row is None:
            return None
        if len(self._ids) >= MAX_NAMES:
            self._ids = {}
        number: int = row[0]
        self._ids[shard, text] = number
        return number

    def texts_of(self, db: sqlite3.Connection, ids: Iterable[int | None]) -> dict[int | None, str | None]:
        """A dict that has the texts of all these numbers, and more."""
        wanted = set(ids)
        texts = self.texts
        missing = wanted - texts.keys()
        if len(texts) + len(missing) > MAX_NAMES:
            texts = self.texts = {None: None}
            missing = wanted - texts.keys()
        for chunk in padded(missing):
            texts.update(
                db.execute(f"SELECT id, text FROM name WHERE id IN ({placeholders(len(chunk))})", chunk)
            )
        return texts
