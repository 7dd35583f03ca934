"""How the collections are spread over a sharded cluster."""

from collections.abc import Iterator, Sequence
from typing import Any

from storage.collection import CollectionSpec
from storage.mongo.schema import LOG, SEARCH

ShardKey = tuple[str, ...]

PARTS_OF_KEY = 2


def shard_plan(specs: Sequence[CollectionSpec[Any]]) -> Iterator[tuple[str, ShardKey]]:
    """Each collection that grows, with its shard key, in ascending order throughout.

    The log by shard: a shard of the log lies in one place whole, so that its numbers stay unique, and each
    read of it asks one shard of the cluster. Search by room. Records by the first fields of their key: what
    is asked for together lies together, and a cluster takes one of several only where the shard key says.
    """
    yield LOG, ("shard",)
    yield SEARCH, ("room_id",)
    for spec in specs:
        yield spec.name, spec.key[:PARTS_OF_KEY]
