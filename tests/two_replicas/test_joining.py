"""Users come into a room of another server by way of two replicas at once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from msgspec.structs import replace

from homeserver.clock import system_clock
from homeserver.config import Config
from homeserver.config.options import Egress, Federation
from tests.client_api.conftest import Client
from tests.federation.host import Host
from tests.federation.servers import PORT
from tests.federation_transport.network import CA, LOOPBACK, Internet, Time, new_address
from tests.federation_transport.peers import Peer


@pytest.fixture
def config(config: Config, tmp_path: Path) -> Config:
    authority = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(authority)
    egress = Egress(allow_networks=LOOPBACK, ca=str(authority))
    return replace(config, egress=egress, federation=Federation())


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    internet = Internet()
    await internet.start()
    name = new_address()
    time = Time()
    time.now = system_clock()
    peer = Peer(name, await internet.site(name, port=PORT, address=name), time)
    yield Host(peer)
    await internet.close()


async def test_the_room_is_brought_in_once(host: Host, alice: Client, bob: Client) -> None:
    host.open_to(alice.user_id)
    host.open_to(bob.user_id)
    host.tell_state()
    path = f"/join/{quote(host.room_id)}?via={host.name}"
    await asyncio.gather(alice.post(path), bob.post(path))
    for client in (alice, bob):
        joined = await client.get(f"/rooms/{quote(host.room_id)}/joined_members")
        assert set(joined["joined"]) == {host.creator, alice.user_id, bob.user_id}
    await alice.send(host.room_id, "both are here")
    (room,) = (await bob.sync())["rooms"]["join"].values()
    shown = [event["content"].get("body") for event in room["timeline"]["events"]]
    assert shown[-1] == "both are here"
    assert sum(event["type"] == "m.room.member" for event in room["timeline"]["events"]) == 2
