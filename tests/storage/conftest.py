"""Stores under test: every contract test runs once for each backend in `BACKENDS`."""

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.collection import CollectionSpec
from storage.log import Log, ShardMap
from storage.sqlite import open_store
from storage.store import OpenStore, Store
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


def sqlite(path: Path) -> Backend:
    return Backend(open_store, f"sqlite:///{path / 'weft.db'}")


BACKENDS: dict[str, Callable[[Path], Backend]] = {"sqlite": sqlite}


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    backend = BACKENDS[request.param](tmp_path)
    yield backend
    await backend.close()


@pytest.fixture
async def store(backend: Backend) -> Store:
    return await backend.open()


@pytest.fixture
def log(store: Store) -> Log:
    return store.log
