"""What a commit wants to store and the log has already: the same event, the same transaction."""

from collections.abc import Iterable, Sequence
from typing import Any

from storage.errors import Duplicate
from storage.log import Entry
from storage.mongo.connection import Connection
from storage.mongo.schema import BY_EVENT, BY_TXN, LOG, MAX_SEQ

Unique = tuple[int, str, Any]
"""A shard, the field by which entries are unique in it, and the value."""

_INDEXES = {"event_id": BY_EVENT, "txn": BY_TXN}


class Doubles:
    """Knows where in the log entries with these unique values are; told of what is added."""

    def __init__(self) -> None:
        self._seqs: dict[Unique, int] = {}

    async def look_up(self, connection: Connection, values: Iterable[Unique]) -> None:
        """Ask the log, in one query for each field. Raises StoreUnavailable."""
        asked: dict[str, dict[int, list[Any]]] = {}
        for shard, field, value in values:
            asked.setdefault(field, {}).setdefault(shard, []).append(value)
        for field, by_shard in asked.items():
            of_shards = [{"shard": shard, field: {"$in": found}} for shard, found in by_shard.items()]
            where = of_shards[0] if len(of_shards) == 1 else {"$or": of_shards}
            fields = {"shard": 1, field: 1}
            for document in await connection.find(LOG, where, hint=_INDEXES[field], fields=fields):
                self._seqs[document["shard"], field, document[field]] = document["_id"] & MAX_SEQ

    def among(self, shard: int, entries: Sequence[Entry]) -> Duplicate | None:
        """The first of the entries that would be double in the shard."""
        own: set[Unique] = set()
        for index, entry in enumerate(entries):
            for unique in unique_values(shard, entry):
                seq = 0 if unique in own else self._seqs.get(unique)
                if seq is not None:
                    return Duplicate(index, seq, unique[1])
                own.add(unique)
        return None

    def add(self, shard: int, seq: int, entry: Entry) -> None:
        """An entry that is going to be in the log."""
        for unique in unique_values(shard, entry):
            self._seqs[unique] = seq


def unique_values(shard: int, entry: Entry) -> list[Unique]:
    """The event first, then the transaction."""
    values: list[Unique] = []
    if entry.event_id is not None:
        values.append((shard, "event_id", entry.event_id))
    if entry.txn is not None:
        values.append((shard, "txn", entry.txn))
    return values
