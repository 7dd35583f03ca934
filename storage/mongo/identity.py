"""Who a store is, and whether this release and this configuration may open it.

Asked before anything in the database is touched: a store that is refused stays as it was.
"""

from pymongo.errors import DuplicateKeyError

from storage.errors import StoreRefused
from storage.log import ShardMap
from storage.mongo.connection import Connection, Document
from storage.mongo.faults import writing
from storage.mongo.schema import MIGRATIONS, STORE
from storage.store import FORMAT, StoreInfo, new_epoch


async def establish(connection: Connection, server_name: str, shards: ShardMap) -> None:
    """An empty database becomes this server's. Raises StoreRefused if it is not ours to open."""
    stores = connection.database[STORE]
    store = await stores.find_one({"_id": STORE})
    if store is None:
        names = await connection.database.list_collection_names()
        store = await stores.find_one({"_id": STORE})  # Another replica may be at it, too.
        if store is None and any(name != STORE for name in names):
            raise StoreRefused(
                f"The database {connection.database.name} holds something else: "
                "name one of Weft's own in storage.uri"
            )
    if store is None:
        store = {
            "_id": STORE,
            "epoch": new_epoch(),
            "server_name": server_name,
            "room_shards": shards.rooms,
            "user_shards": shards.users,
            "format": FORMAT,
            "steps": 0,
        }
        try:
            await stores.insert_one(store)
        except DuplicateKeyError:
            await establish(connection, server_name, shards)
            return
    _check(store, server_name, shards)


def _check(store: Document, server_name: str, shards: ShardMap) -> None:
    if store["steps"] > len(MIGRATIONS) or store["format"] > FORMAT:
        raise StoreRefused(
            "The store was written by a newer release: run that one, "
            "or restore a backup made before the upgrade"
        )
    if store["server_name"] != server_name:
        raise StoreRefused(
            f"The store belongs to the server {store['server_name']}, not {server_name}: "
            "a server's name cannot change; give this one a store of its own"
        )
    if (store["room_shards"], store["user_shards"]) != (shards.rooms, shards.users):
        raise StoreRefused(
            f"The store has {store['room_shards']} room shards and {store['user_shards']} user shards, the "
            f"configuration says {shards.rooms} and {shards.users}: set them as they were when the store was "
            "created"
        )


async def confirm(connection: Connection, shards: ShardMap) -> StoreInfo:
    """Who the checked and migrated store is; it is of this release's format from now on."""
    stores = connection.database[STORE]
    await stores.update_one({"_id": STORE, "format": {"$lt": FORMAT}}, {"$set": {"format": FORMAT}})
    store = await stores.find_one({"_id": STORE})
    assert store is not None
    return StoreInfo(store["epoch"], store["server_name"], shards, FORMAT)


async def begin_epoch(connection: Connection) -> None:
    """Nobody has the store open any more, as far as it says."""
    with writing():
        async with connection.session() as session:
            await connection.collection(STORE).update_one(
                {"_id": STORE}, {"$set": {"epoch": new_epoch(), "servers": []}}, session=session
            )
