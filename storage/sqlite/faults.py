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


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code, 0 when the error did not come from SQLite itself."""
    code: int = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF


def is_environmental(error: BaseException) -> bool:
    """Whether the surroundings failed (disk, memory, locks) rather than one request."""
    return isinstance(error, sqlite3.Error) and primary_code(error) in _PLAIN


def store_error(error: sqlite3.Error) -> StoreError:
    """The port's error for one of SQLite's, of which nothing was stored."""
    plain = _PLAIN.get(primary_code(error), "The database refused")
    return StoreUnavailable(f"{plain} ({error})")


def commit_error(error: sqlite3.Error) -> StoreError:
    """The port's error for a COMMIT that failed: what could not be synced may still be on the disk."""
    if primary_code(error) == sqlite3.SQLITE_IOERR:
        return OutcomeUnknown(f"{_PLAIN[sqlite3.SQLITE_IOERR]} ({error})")
    return store_error(error)
