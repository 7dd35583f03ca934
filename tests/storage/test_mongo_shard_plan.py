"""The shard keys are such that a cluster can keep what the store promises."""

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from homeserver.app.stores import SPECS
from storage.log import ShardMap
from storage.mongo import open_store, shard_plan
from storage.mongo.schema import STORE
from tests.stores import MongoDatabase


@pytest.fixture
def data() -> Iterator[MongoDatabase]:
    data = MongoDatabase()
    yield data
    data.destroy()


async def test_every_unique_index_begins_with_the_shard_key(data: MongoDatabase) -> None:
    """Otherwise a cluster refuses to divide the collection."""
    store = await open_store(data.uri, server_name="example.org", shards=ShardMap(1, 1), specs=SPECS)
    await store.close()
    plan = dict(shard_plan(SPECS))
    async with AsyncMongoClient[dict[str, Any]](data.uri) as client:
        database = client.get_default_database()
        names = set(await database.list_collection_names())
        assert names - {STORE} == plan.keys()
        for name, shard_key in plan.items():
            indexes = await database[name].index_information()
            for index in (index for index in indexes.values() if index.get("unique")):
                assert tuple(field for field, _ in index["key"])[: len(shard_key)] == shard_key
                assert {direction for _, direction in index["key"]} == {1}
