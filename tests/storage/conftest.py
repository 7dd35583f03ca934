"""Stores under test: every contract test runs once for each backend in `BACKENDS`."""

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage import mongo, sqlite
from storage.collection import CollectionSpec
from storage.log import Log, ShardMap
from storage.store import OpenStore, Store
from tests.real_parts import mongodb
from tests.storage.records import SPECS

SHARDS = ShardMap(rooms=2, users=2)
SERVER_NAME = "example.org"


class Backend:
    """Opens and closes one store, which is empty before the first opening."""

    def __init__(self, open_store: OpenStore, uri: str) -> None:
        self._open_store = open_store
        self.uri = uri
        self.opened: list[Store] = []

    async def open(
        self,
        specs: Sequence[CollectionSpec[Any]] = SPECS,
        *,
        server_name: str = SERVER_NAME,
        shards: ShardMap = SHARDS,
    ) -> Store:
        store = await self._open_store(self.uri, server_name=server_name, shards=shards, specs=specs)
        self.opened.append(store)
        return store

    async def close(self) -> None:
        while self.opened:
            await self.opened.pop().close()

    async def destroy(self) -> None:
        """Close it, and leave nothing behind that the test's folder does not hold."""
        await self.close()

    def kept(self) -> bytes:
        """All that is stored."""
        raise NotImplementedError


class SqliteBackend(Backend):
    def __init__(self, folder: Path) -> None:
        super().__init__(sqlite.open_store, f"sqlite:///{folder / 'weft.db'}")
        self._folder = folder

    def kept(self) -> bytes:
        return b"".join(path.read_bytes() for path in self._folder.rglob("*") if path.is_file())


class MongoBackend(Backend):
    def __init__(self, folder: Path) -> None:
        super().__init__(mongo.open_store, mongodb.new_database_uri())

    async def destroy(self) -> None:
        await self.close()
        mongodb.drop_database(self.uri)

    def kept(self) -> bytes:
        return mongodb.dump(self.uri)


BACKENDS: dict[str, Callable[[Path], Backend]] = {"sqlite": SqliteBackend, "mongo": MongoBackend}


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
