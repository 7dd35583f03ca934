"""What a message takes on disk in a store of some size: python -m bench.disk [EVENTS]

The messages of `bench.startup`, as clients send them and filed for search, put through the port into SQLite
and into a MongoDB of one node. Of MongoDB it is also said where the bytes are.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop
from msgspec.structs import replace
from pymongo import MongoClient

from bench.server import tree_bytes
from bench.startup import SHARD, runs
from homeserver.rooms.event_meta import EventMeta, encode_meta
from homeserver.search.documents import document_of
from storage import mongo, sqlite
from storage.log import Entry, ShardMap, transaction_digest
from storage.store import OpenStore
from tests.real_parts.mongodb import ReplicaSet

EVENTS = 300_000
DEVICE = "ABCDEFGHIJ"


def _as_sent(entry: Entry) -> Entry:
    """With what the server notes of an event that a client has sent."""
    txn_id = f"m{entry.ts}.1"
    meta = encode_meta(EventMeta(device_id=DEVICE, txn_id=txn_id))
    return replace(entry, meta=meta, txn=transaction_digest(str(entry.sender), DEVICE, "send", txn_id))


async def fill(open_store: OpenStore, uri: str, count: int) -> None:
    """Puts messages into a new store."""
    store = await open_store(uri, server_name="weft.test", shards=ShardMap(1, 1), specs=())
    tail = 0
    for entries in runs(count):
        tail = await store.log.append(SHARD, tail, [_as_sent(entry) for entry in entries])
        found = (document_of(entry, entry.ts) for entry in entries)
        await store.search.add([document for document in found if document is not None])
    await store.close()


def _mongo_sizes(uri: str) -> Mapping[str, Sequence[tuple[str, int]]]:
    """Bytes on disk of each collection's documents and of each of its indexes."""
    with MongoClient[dict[str, Any]](uri) as client:
        client.admin.command("fsync")
        database = client.get_default_database()
        stats = {name: database.command("collStats", name) for name in database.list_collection_names()}
    return {
        name: [("documents", of["storageSize"]), *sorted(of["indexSizes"].items())]
        for name, of in stats.items()
    }


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="weft-disk-") as name:
        folder = Path(name)
        (folder / "sqlite").mkdir()
        await fill(sqlite.open_store, f"sqlite:///{folder}/sqlite/weft.db", count)
        print(f"SQLite: {tree_bytes(folder / 'sqlite') / count:.0f} bytes for each of {count} messages")
        servers = ReplicaSet(1, beneath=folder)
        try:
            uri = servers.uri.replace("/?", "/weft?")
            await fill(mongo.open_store, uri, count)
            sizes = _mongo_sizes(uri)
        finally:
            servers.stop()
    total = sum(size for parts in sizes.values() for _, size in parts)
    print(f"MongoDB: {total / count:.0f} bytes")
    for collection, parts in sorted(sizes.items()):
        for part, size in parts:
            print(f"  {collection} {part}: {size / count:.0f}")


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS))
