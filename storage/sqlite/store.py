"""Opens the file, checks that it is ours to open, and puts the parts together."""

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from storage.collection import Collection, CollectionSpec, Record
from storage.errors import StoreRefused, StoreUnavailable
from storage.log import ShardMap
from storage.sqlite.appending import Appender
from storage.sqlite.bodies import Bodies, install_dictionary
from storage.sqlite.collection import SqliteCollection, Table
from storage.sqlite.faults import primary_code, store_error
from storage.sqlite.identity import begin_epoch, check, establish
from storage.sqlite.locking import StoreLock
from storage.sqlite.log import SqliteLog
from storage.sqlite.readers import Readers
from storage.sqlite.schema import migrate
from storage.sqlite.search import SqliteSearch, prepare
from storage.sqlite.writer import Writer
from storage.store import Examination, Occupant, StoreInfo

T = TypeVar("T", bound=Record)

SCHEME = "sqlite:///"
CACHE_KIB = 2 * 1024
"""Of the writer. Most commits have SQLite walk over all pages that it keeps: to put pages of a tree in order
it borrows a page number beyond the file's end, and looks afterwards for what may lie there. More pages
cost more than they save, as the system keeps them anyway."""
CACHED_STATEMENTS = 1024
BUSY_TIMEOUT_S = 1.0
CHECKPOINT_PAGES = 2000


async def open_store(
    uri: str, *, server_name: str, shards: ShardMap, specs: Sequence[CollectionSpec[Any]]
) -> "SqliteStore":
    """Open or create the store at `uri`: a path, or `sqlite:///` and a path.

    Raises StoreRefused and StoreUnavailable.
    """
    path = Path(uri.removeprefix(SCHEME))
    tables = [Table(spec) for spec in specs]
    parts = await asyncio.to_thread(_open, path, server_name, shards, tables)
    return SqliteStore(path, parts, tables)


class _Parts(NamedTuple):
    """An open file: locked, checked, with all that the specs ask for."""

    lock: StoreLock
    db: sqlite3.Connection
    info: StoreInfo
    bodies: Bodies
    readers: Readers


def _open(path: Path, server_name: str, shards: ShardMap, tables: Sequence[Table[Any]]) -> _Parts:
    try:
        with ExitStack() as undo:
            lock = StoreLock(path)
            undo.callback(lock.release)
            path.touch(mode=0o600)
            db = sqlite3.connect(
                path,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=CACHED_STATEMENTS,
            )
            undo.callback(db.close)
            check(db, server_name, shards)
            info = _prepare(db, server_name, shards, tables)
            parts = _Parts(lock, db, info, Bodies(db), Readers(path))
            undo.pop_all()
            return parts
    except OSError as error:
        raise StoreUnavailable(
            f"The store {path} cannot be opened: {error.strerror}; "
            "the file and its folder have to belong to the server's user"
        ) from error
    except sqlite3.Error as error:
        if primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StoreRefused(f"The store is damaged: restore it from a backup ({error})") from error
        raise store_error(error) from error


def _prepare(
    db: sqlite3.Connection, server_name: str, shards: ShardMap, tables: Sequence[Table[Any]]
) -> StoreInfo:
    if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise StoreRefused("The store's file system cannot hold it: put it on a local disk")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")  # What was redacted or purged leaves the file.
    db.execute("PRAGMA temp_store = MEMORY")
    db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    migrate(db)
    db.execute("BEGIN IMMEDIATE")
    try:
        info = establish(db, server_name, shards)
        install_dictionary(db)
        for table in tables:
            table.prepare(db)
        prepare(db)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return info


class SqliteStore:
    """Implements `storage.store.Store`."""

    def __init__(self, path: Path, parts: _Parts, tables: Sequence[Table[Any]]) -> None:
        self._path = path
        self._closed = False
        self._lock = parts.lock
        self._info = parts.info
        self._readers = readers = parts.readers
        self._writer = writer = Writer(parts.db, path, Appender(parts.db, parts.bodies))
        self._log = SqliteLog(writer, readers, parts.bodies)
        self._search = SqliteSearch(writer, readers)
        self._collections = {table.spec.name: SqliteCollection(table, writer, readers) for table in tables}

    @property
    def info(self) -> StoreInfo:
        return self._info

    @property
    def log(self) -> SqliteLog:
        return self._log

    @property
    def search(self) -> SqliteSearch:
        return self._search

    def collection(self, spec: CollectionSpec[T]) -> Collection[T]:
        return cast(Collection[T], self._collections[spec.name])

    async def claim(self, occupant: Occupant) -> None:
        return  # The file's lock keeps all others out.

    async def begin_epoch(self) -> None:
        await self._writer.run(begin_epoch)

    async def size_bytes(self) -> int:
        total = 0
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                total += os.stat(f"{self._path}{suffix}").st_size
        return total

    async def examine(self) -> Examination:
        """What could be wrong with a file is found when it is opened."""
        return Examination()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._search.close()
        await self._readers.close()
        await self._writer.close()
        self._lock.release()
