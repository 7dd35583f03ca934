"""Who a store is, and whether this release and this configuration may open it.

Asked before anything in the file is touched: a store that is refused stays as it was.
"""

import sqlite3

from storage.errors import StoreRefused
from storage.log import ShardMap
from storage.sqlite.schema import APPLICATION_ID, MIGRATIONS
from storage.store import FORMAT, StoreInfo, new_epoch


def check(db: sqlite3.Connection, server_name: str, shards: ShardMap) -> None:
    """Raises StoreRefused unless the file is empty, or a store of this server that this release knows."""
    if not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        return
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreRefused("The store's file is a database of another program: give Weft a file of its own")
    row = db.execute("SELECT format, server_name, room_shards, user_shards FROM store").fetchone()
    steps: int = db.execute("PRAGMA user_version").fetchone()[0]
    if steps > len(MIGRATIONS) or (row is not None and row[0] > FORMAT):
        raise StoreRefused(
            "The store was written by a newer release: run that one, "
            "or restore a backup made before the upgrade"
        )
    if row is None:
        return
    _, stored_name, rooms, users = row
    if stored_name != server_name:
        raise StoreRefused(
            f"The store belongs to the server {stored_name}, not {server_name}: "
            "a server's name cannot change; give this one a store of its own"
        )
    if (rooms, users) != (shards.rooms, shards.users):
        raise StoreRefused(
            f"The store has {rooms} room shards and {users} user shards, the configuration says "
            f"{shards.rooms} and {shards.users}: set them as they were when the store was created"
        )


def establish(db: sqlite3.Connection, server_name: str, shards: ShardMap) -> StoreInfo:
    """Who the checked and migrated store is; a new one becomes what is asked for."""
    if db.execute("SELECT 1 FROM store").fetchone() is None:
        db.execute(
            "INSERT INTO store (epoch, server_name, room_shards, user_shards, format) VALUES (?, ?, ?, ?, ?)",
            (new_epoch(), server_name, shards.rooms, shards.users, FORMAT),
        )
    db.execute("UPDATE store SET format = ?1 WHERE format <> ?1", (FORMAT,))
    (epoch,) = db.execute("SELECT epoch FROM store").fetchone()
    return StoreInfo(epoch, server_name, shards, FORMAT)


def begin_epoch(db: sqlite3.Connection) -> None:
    db.execute("UPDATE store SET epoch = ?", (new_epoch(),))
