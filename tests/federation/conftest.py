"""Servers, and what most tests have in their rooms: alice here, a visitor from another server."""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.client_api.conftest import STORES, Client
from tests.federation.identity_server import IdentityServer, identity_server, trust
from tests.federation.receiving import Receiving
from tests.federation.servers import Homeserver, OtherServer, another
from tests.federation.visitor import Visitor
from tests.federation_transport.network import CA, Internet
from tests.stores import MongoDatabase, StoredData


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Connections that believe the tests' certificates, to clients' listeners as well."""
    context = ssl.create_default_context()
    CA.configure_trust(context)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield session


@asynccontextmanager
async def running(
    folder: Path, http: aiohttp.ClientSession, data: StoredData | None = None
) -> AsyncIterator[Homeserver]:
    homeserver = Homeserver(folder, data)
    homeserver.http = http
    await homeserver.start()
    try:
        yield homeserver
    finally:
        await homeserver.stop()


@pytest.fixture
def on_sqlite() -> None:
    """In the server's own folder."""


@pytest.fixture
def on_mongo() -> Iterator[StoredData]:
    database = MongoDatabase()
    yield database
    database.destroy()


@pytest.fixture
def data(request: pytest.FixtureRequest) -> StoredData | None:
    """The store of the server; a test that wants several is parametrized with it, by `STORES`."""
    stored: StoredData | None = request.getfixturevalue(STORES[getattr(request, "param", "sqlite")])
    return stored


@pytest.fixture
async def server(
    tmp_path: Path, http: aiohttp.ClientSession, data: StoredData | None
) -> AsyncIterator[Homeserver]:
    async with running(tmp_path / "own", http, data) as homeserver:
        yield homeserver


@pytest.fixture
async def second(tmp_path: Path, http: aiohttp.ClientSession) -> AsyncIterator[Homeserver]:
    """Another such server."""
    async with running(tmp_path / "second", http) as homeserver:
        yield homeserver


@pytest.fixture
async def internet() -> AsyncIterator[Internet]:
    internet = Internet()
    await internet.start()
    yield internet
    await internet.close()


@pytest.fixture
async def other(internet: Internet, server: Homeserver, http: aiohttp.ClientSession) -> OtherServer:
    """A server that this one has never heard of."""
    return await another(internet, server, http)


@pytest.fixture
async def identity(
    server: Homeserver, tmp_path: Path, internet: Internet, http: aiohttp.ClientSession
) -> AsyncIterator[IdentityServer]:
    """A real identity server, which this one trusts."""
    async with identity_server(tmp_path / "identity", internet, http) as running:
        await trust(server, running)
        yield running


@pytest.fixture
def receiving(other: OtherServer) -> Receiving:
    return Receiving(other)


@pytest.fixture
async def alice(server: Homeserver) -> Client:
    return await server.register("alice")


@pytest.fixture
async def bob(server: Homeserver) -> Client:
    return await server.register("bob")


@pytest.fixture
def visitor(server: Homeserver, other: OtherServer) -> Visitor:
    return Visitor(server, other)


@pytest.fixture
async def room_id(alice: Client, visitor: Visitor, receiving: Receiving) -> str:
    """A room of alice's with the visitor, whom alice has seen, and whose server takes what it is sent."""
    room_id = await alice.create_room(preset="public_chat")
    await visitor.member(room_id, "join")
    await alice.sync()
    return room_id
