"""The search index on SQLite's FTS5.

`search_text` holds the words, and in a second column what a query is narrowed by: room, sender and
key, as words of their own. Its row ids are the orders of the hits, so the newest matches are read
first and a query for a common word ends after its limit. `search_event` says which row is whose.

Deleting from FTS5 leaves the words behind in older segments of the index. SQLite 3.42 can be told not
to. Before it, all segments are merged into one after something was taken out: in small steps beside
the other writes, and for a small part of the time only, so that it may take a while where the index is
large and much is taken out. `close` finishes it.
"""

import asyncio
import sqlite3
from base64 import b32encode
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b

from storage.errors import StoreError, StoreRefused
from storage.search import ORDER_BITS, SearchDocument, SearchHit, SearchQuery
from storage.sqlite.event_ids import Packed, pack, prefix, unpack
from storage.sqlite.readers import INLINE_ROWS, Reader, Readers
from storage.sqlite.schema import prefix_of
from storage.sqlite.writer import Writer

REMOVED_AT_ONCE = 200
MERGED_AT_ONCE = 200
"""Pages of the index that one step of merging may write."""
PAUSE = 20
"""After a merge, the next one waits so many times as long as it took."""
HASH_BYTES = 5
SECURE_DELETE_SINCE = (3, 42, 0)

_PREFIX = prefix_of("event_id")
_EVENT = "CREATE TABLE IF NOT EXISTS search_event (id INTEGER PRIMARY KEY, event_id BLOB NOT NULL)"
_BY_EVENT = f"CREATE INDEX IF NOT EXISTS search_event_by_event ON search_event ({_PREFIX})"
_TEXT = "CREATE VIRTUAL TABLE IF NOT EXISTS search_text USING fts5 (words, scope, tokenize = 'ascii')"


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables, inside a transaction. Raises StoreRefused when this SQLite has no FTS5."""
    db.execute(_EVENT)
    db.execute(_BY_EVENT)
    try:
        db.execute(_TEXT)
    except sqlite3.OperationalError as error:
        if "no such module" not in str(error):
            raise
        raise StoreRefused("This Python's SQLite was built without FTS5, which searching needs") from error
    if sqlite3.sqlite_version_info >= SECURE_DELETE_SINCE:
        db.execute("INSERT INTO search_text (search_text, rank) VALUES ('secure-delete', 1)")


class SqliteSearch:
    """Implements `storage.search.SearchIndex`."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers
        self._stale = False
        """Something was deleted since the last merge began."""
        self._merging: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def add(self, documents: Sequence[SearchDocument]) -> None:
        def work(db: sqlite3.Connection) -> None:
            for document in documents:
                event_id = pack(document.event_id)
                _delete(db, [event_id])
                order = _free_order(db, document)
                db.execute("INSERT INTO search_event (id, event_id) VALUES (?, ?)", (order, event_id))
                db.execute(
                    "INSERT INTO search_text (rowid, words, scope) VALUES (?, ?, ?)",
                    (order, " ".join(document.words), _scope_of(document)),
                )

        await self._writer.run(work)

    async def remove(self, event_ids: Sequence[str]) -> None:
        removed = 0
        for start in range(0, len(event_ids), REMOVED_AT_ONCE):
            packed = [pack(event_id) for event_id in event_ids[start : start + REMOVED_AT_ONCE]]
            removed += await self._writer.run(lambda db, packed=packed: _delete(db, packed))  # type: ignore[misc]
        if removed:
            self._merge_soon()

    async def remove_room(self, room_id: str) -> None:
        match = f'scope : "{_room_word(room_id)}"'

        def work(db: sqlite3.Connection) -> int:
            rows = db.execute(
                "SELECT event_id FROM search_text JOIN search_event ON id = search_text.rowid"
                " WHERE search_text MATCH ? LIMIT ?",
                (match, REMOVED_AT_ONCE),
            )
            return _delete(db, [event_id for (event_id,) in rows.fetchall()])

        removed = False
        while await self._writer.run(work):
            removed = True
        if removed:
            self._merge_soon()

    async def close(self) -> None:
        """Finish taking out what was removed."""
        self._closing.set()
        if self._merging is not None:
            await self._merging

    def _merge_soon(self) -> None:
        """Let the words of what was deleted leave the index."""
        if sqlite3.sqlite_version_info < SECURE_DELETE_SINCE:
            self._stale = True
            if self._merging is None:
                self._merging = asyncio.create_task(self._merge(), name="search-merge")

    async def _merge(self) -> None:
        def step(db: sqlite3.Connection) -> bool:
            before = db.total_changes
            db.execute("INSERT INTO search_text (search_text, rank) VALUES ('merge', ?)", (-MERGED_AT_ONCE,))
            # Documented so: one change, its own, means that there is nothing left to do.
            return db.total_changes - before < 2

        loop = asyncio.get_running_loop()
        try:
            while self._stale:
                self._stale = False
                began = loop.time()
                while not await self._writer.run(step):
                    pass
                if self._stale:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._closing.wait(), PAUSE * (loop.time() - began))
        except StoreError:
            # What is left goes with the next merge.
            self._stale = True
        finally:
            self._merging = None

    async def search(
        self, query: SearchQuery, *, below: int | None = None, limit: int, ranked: bool
    ) -> list[SearchHit]:
        match = _match_of(query)
        if match is None:
            return []
        sql = (
            "SELECT event_id, search_text.rowid, -bm25(search_text, 1.0, 0.0)"
            " FROM search_text JOIN search_event ON id = search_text.rowid"
            f" WHERE search_text MATCH ? {'' if below is None else 'AND search_text.rowid < ?'}"
            " ORDER BY search_text.rowid DESC LIMIT ?"
        )
        values = (match, limit) if below is None else (match, below, limit)

        def read(reader: Reader) -> list[SearchHit]:
            return [
                SearchHit(unpack(event_id), order, score)
                for event_id, order, score in reader.db.execute(sql, values)
            ]

        hits = await self._readers.run(read, rows=INLINE_ROWS + 1)
        if ranked:
            hits.sort(key=lambda hit: (-hit.score, -hit.order))
        return hits


def _delete(db: sqlite3.Connection, event_ids: Sequence[Packed]) -> int:
    """How many there were."""
    sql = f"DELETE FROM search_event WHERE {_PREFIX} = ? AND event_id = ? RETURNING id"
    count = 0
    for event_id in event_ids:
        rows = db.execute(sql, (prefix(event_id), event_id)).fetchall()
        db.executemany("DELETE FROM search_text WHERE rowid = ?", rows)
        count += len(rows)
    return count


def _free_order(db: sqlite3.Connection, document: SearchDocument) -> int:
    """By time, then by the event's id; the next free one where two fall together."""
    digest = blake2b(document.event_id.encode(), digest_size=4).digest()
    order = max(0, document.ts) << ORDER_BITS | int.from_bytes(digest, "big") >> (32 - ORDER_BITS)
    while db.execute("SELECT 1 FROM search_event WHERE id = ?", (order,)).fetchone():
        order += 1
    return order


# Words of the second column begin with a letter for what they say; ids are hashed, so that whatever
# is in them makes one word.


def _scope_of(document: SearchDocument) -> str:
    return f"{_room_word(document.room_id)} {_sender_word(document.sender)} {_key_word(document.key)}"


def _room_word(room_id: str) -> str:
    return _hashed("r", room_id)


def _sender_word(user_id: str) -> str:
    return _hashed("s", user_id)


def _key_word(key: str) -> str:
    return _hashed("k", key)


def _hashed(kind: str, text: str) -> str:
    """Short, since it is kept with each event; that two may fall together only widens the search."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES).digest()
    return kind + b32encode(digest).decode().lower()


def _match_of(query: SearchQuery) -> str | None:
    """The FTS5 expression, None for a query that matches nothing."""
    parts = [_all_of(query.words)]
    parts.append(_any_of(map(_room_word, query.rooms)))
    if query.keys is not None:
        parts.append(_any_of(map(_key_word, query.keys)))
    if query.senders is not None:
        parts.append(_any_of(map(_sender_word, query.senders)))
    if None in parts:
        return None
    match = " AND ".join(f"({part})" for part in parts)
    excluded = _any_of(map(_sender_word, query.not_senders))
    return match if excluded is None else f"({match}) NOT ({excluded})"


def _all_of(words: Sequence[str]) -> str | None:
    if not words or not all(word.isprintable() for word in words):
        return None
    quoted = (word.replace('"', '""') for word in words)
    return "words : (" + " AND ".join(f'"{word}"' for word in quoted) + ")"


def _any_of(words: Iterable[str]) -> str | None:
    joined = " OR ".join(f'"{word}"' for word in words)
    return f"scope : ({joined})" if joined else None
