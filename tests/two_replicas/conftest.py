"""Two whole servers in the test's process, replicas of one: one store, one folder of media, one key."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from homeserver.app.stores import SPECS
from homeserver.app.wiring import App
from homeserver.config import Config
from homeserver.config.options import Federation
from rest.connections import runner_of
from storage.log import ShardMap
from storage.sqlite import open_store
from tests.client_api.conftest import Client
from tests.two_replicas.shared_bus import Exchange

SHARDS = ShardMap(rooms=2, users=2)
PATIENCE_SECONDS = 5.0


class BorrowedStore:
    """A store that others use, too: who closes it only stops using it."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def close(self) -> None:
        return


class Replica:
    """One of the two, at an address of its own."""

    def __init__(self, app: App, listening: socket.socket) -> None:
        self.app = app
        self._socket = listening
        self._runner = runner_of(app.web_application())
        self._stopped = False
        self.base = f"http://{address_of(listening)}"

    async def start(self) -> None:
        await self.app.start()
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def stop(self) -> None:
        """As on SIGTERM."""
        if self._stopped:
            return
        self._stopped = True
        self.app.answer_polls()
        await self._runner.cleanup()
        await self.app.close()


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()
    return f"{host}:{port}"


class Replicas:
    """Both, called A and B."""

    def __init__(self, a: Replica, b: Replica, exchange: Exchange, http: aiohttp.ClientSession) -> None:
        self.a = a
        self.b = b
        self.exchange = exchange
        self._http = http

    def client(self) -> Client:
        """A client of A that is not logged in."""
        return Client(self.a.base, self._http)

    def at(self, replica: Replica, client: Client) -> Client:
        """The same device as it talks to another replica."""
        there = Client(replica.base, self._http)
        there.token, there.user_id, there.device_id = client.token, client.user_id, client.device_id
        there.next_batch = client.next_batch
        return there

    def at_b(self, client: Client) -> Client:
        return self.at(self.b, client)

    def owner(self, room_id: str) -> Replica:
        """The one whose shard a room is in."""
        both = (self.a, self.b)
        return next(each for each in both if each.app.ground.others.elsewhere(room_id) is None)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "data").mkdir(mode=0o700)
    alone = Config.for_development("localhost", tmp_path / "data", 8008)
    return replace(alone, federation=Federation(enabled=False))


@pytest.fixture
async def replicas(config: Config) -> AsyncIterator[Replicas]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    exchange = Exchange(SHARDS, [address_of(listening) for listening in sockets])
    store = await open_store(config.storage.uri, server_name="localhost", shards=SHARDS, specs=SPECS)
    two = [
        Replica(App(config, BorrowedStore(store), exchange.member(number)), listening)
        for number, listening in enumerate(sockets)
    ]
    async with aiohttp.ClientSession() as http:
        for replica in two:
            await replica.start()
        try:
            yield Replicas(two[0], two[1], exchange, http)
        finally:
            exchange.hold(False)
            for replica in two:
                await replica.stop()
            await store.close()
    assert exchange.unfit == []


@pytest.fixture
async def alice(replicas: Replicas) -> Client:
    """Talks to A."""
    return await replicas.client().register("alice")


@pytest.fixture
async def bob(replicas: Replicas) -> Client:
    """Talks to B."""
    return replicas.at_b(await replicas.client().register("bob"))


@pytest.fixture
async def room(alice: Client, bob: Client) -> str:
    """A room of both."""
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    return room_id


async def until(true: Callable[[], bool]) -> None:
    """Wait until something is true, for the bus takes a moment."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():
            await asyncio.sleep(0.005)


def with_limits(config: Config, **limits: Any) -> Config:
    """The configuration with these rate limits, which hold."""
    return replace(config, rate_limits=replace(config.rate_limits, enabled=True, **limits))
