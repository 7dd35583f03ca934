"""Device lists of other servers' users, where changes come to any replica (HARDENING 33)."""

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from homeserver.e2ee.key_servers import NoAnswer
from homeserver.e2ee.remote_lists import DeviceUpdate
from homeserver.protocol.json_types import JsonObject
from tests.client_api.conftest import Client
from tests.client_api.crypto_device import CryptoDevice
from tests.federation.visitor import Visitor
from tests.federation_transport.peers import key_of
from tests.two_replicas.conftest import Replicas

NAME = "other.example.org"
USER = f"@visitor:{NAME}"


class OneServer:
    """The only other server there is, as both replicas reach it."""

    def __init__(self, replicas: Replicas) -> None:
        self.devices_of: dict[str, Any] = {}
        self.stream_id = 0
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()
        for replica in (replicas.a, replicas.b):
            replica.app.encryption.remote_lists._servers = self

    def add(self, device_id: str) -> DeviceUpdate:
        """Another device; what is said of it."""
        owner: Any = SimpleNamespace(user_id=USER, device_id=device_id)
        self.devices_of[device_id] = CryptoDevice(owner).device_keys()
        before, self.stream_id = self.stream_id, self.stream_id + 1
        return DeviceUpdate(USER, device_id, self.stream_id, [before], keys=self.devices_of[device_id])

    async def devices(self, server: str, user_id: str) -> JsonObject:
        self.asked += 1
        listed = [{"device_id": device_id, "keys": keys} for device_id, keys in self.devices_of.items()]
        answer = {"user_id": user_id, "stream_id": self.stream_id, "devices": listed}
        await self.answering.wait()
        return answer

    async def query(self, server: str, user_ids: Sequence[str]) -> JsonObject:
        raise NoAnswer("the tests ask for the list of one user")

    async def claim(self, server: str, wanted: Mapping[str, Mapping[str, str]]) -> JsonObject:
        raise NoAnswer("the tests claim nothing")


async def shown(client: Client) -> set[str]:
    answer = await client.post("/keys/query", {"device_keys": {USER: []}})
    assert answer["failures"] == {}
    return set(answer["device_keys"][USER])


async def visit(replicas: Replicas, room: str) -> None:
    other: Any = SimpleNamespace(name=NAME, peer=SimpleNamespace(key=key_of(NAME)))
    there: Any = replicas.a
    await Visitor(there, other).member(room, "join")


async def test_a_list_asked_for_by_one_replica_is_kept_and_changed_by_the_other(
    replicas: Replicas, alice: Client, bob: Client, room: str
) -> None:
    await visit(replicas, room)
    other = OneServer(replicas)
    other.add("PHONE")
    assert await shown(alice) == {"PHONE"}
    await replicas.b.app.encryption.remote_lists.update(other.add("LAPTOP"))
    assert await shown(bob) == {"PHONE", "LAPTOP"}
    assert await shown(alice) == {"PHONE", "LAPTOP"}
    assert other.asked == 1


async def test_a_change_that_comes_to_the_other_replica_while_the_list_is_asked_for_is_not_lost(
    replicas: Replicas, alice: Client, room: str
) -> None:
    await visit(replicas, room)
    await alice.sync()
    other = OneServer(replicas)
    other.add("PHONE")
    other.answering.clear()
    asking = asyncio.create_task(shown(alice))
    async with asyncio.timeout(5):
        while not other.asked:
            await asyncio.sleep(0.005)
    await replicas.b.app.encryption.remote_lists.update(other.add("LAPTOP"))
    other.answering.set()
    assert await asking == {"PHONE"}
    async with asyncio.timeout(5):
        while USER not in (await alice.sync(timeout=500)).get("device_lists", {}).get("changed", []):
            pass
    assert await shown(alice) == {"PHONE", "LAPTOP"}
