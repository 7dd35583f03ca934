"""What lies in the database, by which indexes it is found, and the numbered steps that make it so.

`log` holds the entries (`documents` says how). An entry's `_id` is `shard << 44 | seq`, so the index that
every collection has is the unique one of (shard, seq), and a shard is a range of it. All other indexes
begin with `shard`, which is the shard key of a cluster. They are partial wherever most entries lack the
field: then the field's absence says that an entry is not in the index.

Entries of kinds EVENT and STATE share one *line* of slots, the state of the room; a *slot* is a type with
a key. Only entries that are keyed have a line and a slot.

`search` is the search index (`search`), `store` has one document which says whose store it is
(`identity`). Every other collection is one of records (`collection`).
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bson import Int64
from pymongo import ASCENDING, DESCENDING, IndexModel

from storage.log import Kind
from storage.mongo.connection import Connection

LOG = "log"
SEARCH = "search"
STORE = "store"

SEQ_BITS = 44
MAX_SEQ = (1 << SEQ_BITS) - 1


def row_id(shard: int, seq: int) -> Int64:
    return Int64(shard << SEQ_BITS | seq)


def line_of(kind: Kind) -> int:
    """Which line of slots an entry belongs to."""
    return int(Kind.EVENT if kind is Kind.STATE else kind)


BY_ID = "_id_"
BY_EVENT = "by_event"
BY_TXN = "by_txn"
BY_POSITION = "by_position"
BY_SLOT = "by_slot"
BY_HOLDER = "by_holder"
BY_PARENT = "by_parent"
BY_REL_TYPE = "by_rel_type"
BY_TIME = "by_time"
BY_REMOVAL = "by_removal"
BY_WORD = "by_word"


def index(
    name: str, *fields: str, unique: bool = False, where: Mapping[str, Any] | None = None
) -> IndexModel:
    """An ascending index; a field that begins with a minus descends. With `where` it is partial."""
    keys = [(field.removeprefix("-"), DESCENDING if field[0] == "-" else ASCENDING) for field in fields]
    partial = {} if where is None else {"partialFilterExpression": where}
    return IndexModel(keys, name=name, unique=unique, **partial)


def has(*fields: str) -> dict[str, Any]:
    """The condition that a document has these fields."""
    return {field: {"$exists": True} for field in fields}


LOG_INDEXES = [
    index(BY_EVENT, "shard", "event_id", unique=True, where=has("event_id")),
    index(BY_TXN, "shard", "txn", unique=True, where=has("txn")),
    index(BY_POSITION, "shard", "stream", "kind", "pos"),
    index(BY_SLOT, "shard", "stream", "line", "slot", "pos", where=has("line")),
    index(BY_HOLDER, "shard", "line", "slot", "stream", "pos", where=has("line")),
    index(BY_PARENT, "shard", "stream", "parent", "pos", "rel_type", "type", where=has("parent")),
    index(BY_REL_TYPE, "shard", "stream", "rel_type", "pos", where=has("rel_type")),
    index(BY_TIME, "shard", "stream", "ts", where={"kind": int(Kind.EVENT)}),
    index(BY_REMOVAL, "shard", "removed", where=has("removed")),
]
SEARCH_INDEXES = [
    index(BY_EVENT, "event_id"),
    index(BY_WORD, "room_id", "words", "-_id"),
]


async def prepare(connection: Connection) -> None:
    """Make the indexes of the log and of the search index, those that are missing."""
    await connection.database[LOG].create_indexes(LOG_INDEXES)
    await connection.database[SEARCH].create_indexes(SEARCH_INDEXES)


Migration = Callable[[Connection], Awaitable[None]]

MIGRATIONS: tuple[Migration, ...] = ()
"""Step n brings what is stored from version n to n + 1. Steps that were released are never changed.

A step may be cut short anywhere, and several replicas may take it at once, while others of the release
before still serve: so it can be taken again from its start, and leaves what those others need.
"""


async def migrate(connection: Connection, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
    """Take the steps that the store has not seen."""
    stores = connection.database[STORE]
    store = await stores.find_one({"_id": STORE}) or {}
    for number, step in enumerate(migrations[store["steps"] :], start=store["steps"] + 1):
        await step(connection)
        await stores.update_one({"_id": STORE, "steps": number - 1}, {"$set": {"steps": number}})
