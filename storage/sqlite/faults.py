"""What SQLite's errors mean to the callers of the port."""

import sqlite3

from storage.errors import OutcomeUnknown, StoreError, StoreUnavailable

_PLAIN = {
    sqlite3.SQLITE_FULL: "The disk is full, or the store has reached its size limit",
    sqlite3.SQLITE_IOERR: "The disk does not read or write (input/output error)",
    sqlite3.SQLITE_CANTOPEN: "The store's file cannot be opened",
    sqlite3.SQLITE_READONLY: "The store's file is read-only",
    sqlite3.SQLITE_BUSY: "Another program holds the store's file",
    sqlite3.SQLITE_LOCKED: "Another program holds the store's file",
    sqlite3.SQLITE_CORRUPT: "The store's file is damaged: restore it from a backup",
    sqlite3.SQLITE_NOTADB: "The store's file is not a database: restore it from a backup",
    sqlite3.SQLITE_NOMEM: "Out of memory",
}


def _code(error: sqlite3.Error) -> int:
    """SQLite's extended result code, 0 when the error did not come from SQLite itself."""
    return getattr(error, "sqlite_errorcode", 0)


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code, 0 when the error did not come from SQLite itself."""
    return _code(error) & 0xFF


def is_environmental(error: BaseException) -> bool:
    """Whether the surroundings failed (disk, memory, locks) rather than one request."""
    return isinstance(error, sqlite3.Error) and primary_code(error) in _PLAIN


def store_error(error: sqlite3.Error) -> StoreError:
    """The port's error for one of SQLite's, of which nothing was stored."""
    plain = _PLAIN.get(primary_code(error), "The database refused")
    return StoreUnavailable(f"{plain} ({error})")


def commit_error(error: sqlite3.Error) -> StoreError:
    """The port's error for a COMMIT that failed: what was written but not synced may outlive a crash."""
    if _code(error) in (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC):
        return OutcomeUnknown(f"{_PLAIN[sqlite3.SQLITE_IOERR]} ({error})")
    return store_error(error)
