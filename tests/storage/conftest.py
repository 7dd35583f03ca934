"""Stores under test: every contract test runs once for each backend in `BACKENDS`."""

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage import mongo, sqlite
from storage.collection import CollectionSpec
from storage.log import Log, ShardMap
from storage.store import OpenStore, Store
from tests.storage.records import SPECS
from tests.stores import MongoDatabase, SqliteFile, StoredData

SHARDS = ShardMap(rooms=2, users=2)
SERVER_NAME = "example.org"


class Backend:
    """Opens and closes one store, which is empty before the first opening."""

    def __init__(self, open_store: OpenStore, data: StoredData) -> None:
        self._open_store = open_store
        self.data = data
        self.opened: list[Store] = []

    async def open(
        self,
        specs: Sequence[CollectionSpec[Any]] = SPECS,
        *,
        server_name: str = SERVER_NAME,
        shards: ShardMap = SHARDS,
    ) -> Store:
        store = await self._open_store(self.data.uri, server_name=server_name, shards=shards, specs=specs)
        self.opened.append(store)
        return store

    async def close(self) -> None:
        while self.opened:
            await self.opened.pop().close()

    async def destroy(self) -> None:
        await self.close()
        self.data.destroy()


BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "sqlite": lambda folder: Backend(sqlite.open_store, SqliteFile(folder)),
    "mongo": lambda _: Backend(mongo.open_store, MongoDatabase()),
}


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    backend = BACKENDS[request.param](tmp_path)
    yield backend
    await backend.destroy()


@pytest.fixture
async def store(backend: Backend) -> Store:
    return await backend.open()


@pytest.fixture
def log(store: Store) -> Log:
    return store.log
