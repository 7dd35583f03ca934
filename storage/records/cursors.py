"""How far each consumer of the log has come."""

from storage.collection import CollectionSpec, Record


class Cursor(Record, frozen=True):
    """Consumer `consumer` has handled everything of `shard` up to `seq`."""

    consumer: str
    shard: int
    seq: int


CURSORS = CollectionSpec("cursors", Cursor, ("consumer", "shard"))

SPECS = (CURSORS,)
