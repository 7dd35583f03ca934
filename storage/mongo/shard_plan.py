"""How the collections are spread over a sharded cluster."""

from collections.abc import Iterator, Sequence
from typing import Any

from storage.collection import CollectionSpec
from storage.mongo.schema import LOG, SEARCH

ShardKey = tuple[str, ...]


def shard_plan(specs: Sequence[CollectionSpec[Any]]) -> Iterator[tuple[str, ShardKey]]:
    """Each collection that grows, with its shard key.

    The log by shard: a shard of the log lies in one place whole, so that its numbers stay unique, and each
    read of it asks one shard of the cluster. Records by the first field of their key, which each of their
    unique values must have in it; search by room.
    """
    yield LOG, ("shard",)
    yield SEARCH, ("room_id",)
    for spec in specs:
        yield spec.name, spec.key
