"""An internet for each test, and a clock."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from homeserver.config.options import Federation
from storage.store import Store
from tests.federation_transport.network import Internet, Time
from tests.federation_transport.peers import Server, new_store

Start = Callable[..., Server]


@pytest.fixture
async def internet() -> AsyncIterator[Internet]:
    internet = Internet()
    await internet.start()
    yield internet
    await internet.close()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await new_store(tmp_path)
    yield store
    await store.close()


@pytest.fixture
async def start(internet: Internet, store: Store, time: Time) -> AsyncIterator[Start]:
    """Makes servers, on one store; all are closed at the end."""
    servers: list[Server] = []

    def make(name: str = "own.example.org", **options: object) -> Server:
        server = Server(internet, store, time, name, Federation(**options))  # type: ignore[arg-type]
        servers.append(server)
        return server

    yield make
    for server in servers:
        await server.close()
