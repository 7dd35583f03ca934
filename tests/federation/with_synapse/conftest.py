"""A room of this server's with a real Synapse in it, and one of Synapse's with this server in it."""

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from tests.client_api.conftest import Client
from tests.federation.servers import Homeserver
from tests.federation.with_synapse.sides import Sides, join
from tests.real_parts.synapse import Synapse, python


@pytest.fixture(scope="package")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    running = Synapse(tmp_path_factory.mktemp("peer") / "synapse", asyncio.run(python()))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(params=["weft hosts", "synapse hosts"])
async def sides(
    request: pytest.FixtureRequest, server: Homeserver, synapse: Synapse, http: aiohttp.ClientSession
) -> Sides:
    ours = await server.register("ours")
    theirs = Client(synapse.base, http, checked=False)
    await theirs.register(f"theirs{server.name.replace('.', '-')}")
    if request.param == "weft hosts":
        return Sides(ours, theirs, server.name, synapse.name)
    return Sides(theirs, ours, synapse.name, server.name)


@pytest.fixture
async def room_id(sides: Sides) -> str:
    """A room of the host's that the guest has joined."""
    room_id = await sides.host.create_room(preset="public_chat")
    await join(sides.guest, room_id, sides.host_name)
    return room_id
