"""Other servers are told what changes of this server's users' devices and keys (HARDENING 33)."""

import asyncio
from typing import Any

import pytest

from tests.client_api.conftest import Client
from tests.client_api.crypto_device import CrossSigner, CryptoDevice, log_in, public
from tests.federation.receiving import Receiving, away, taken
from tests.federation.servers import Homeserver, OtherServer
from tests.waiting import until

USER = "/_matrix/federation/v1/user"


class Follower:
    """What the other server makes of the EDUs: a list, as long as each follows upon the one before."""

    def __init__(self, receiving: Receiving, other: OtherServer, user_id: str) -> None:
        self.devices: dict[str, Any] = {}
        self.seen = 0
        self._receiving = receiving
        self._other = other
        self._user_id = user_id
        self._number: int | None = None

    async def start(self) -> None:
        told = await self._other.get(f"{USER}/devices/{self._user_id}")
        self.devices = {device["device_id"]: device["keys"] for device in told["devices"]}
        self._number = told["stream_id"]
        self.seen = len(self._receiving.contents("m.device_list_update"))

    async def follow(self, changes: int) -> None:
        """Take so many more changes."""
        number = self._number or 0

        def told() -> list[Any]:
            # What was under way when the list was asked for is in it.
            updates = self._receiving.contents("m.device_list_update")[self.seen :]
            return [update for update in updates if update["stream_id"] > number]

        await until(lambda: len(told()) >= changes)
        for update in told():
            assert update["user_id"] == self._user_id
            assert update["prev_id"] == [self._number]
            assert "device_display_name" not in update
            self._number = update["stream_id"]
            if update.get("deleted"):
                del self.devices[update["device_id"]]
            else:
                self.devices[update["device_id"]] = update.get("keys")
        self.seen = len(self._receiving.contents("m.device_list_update"))


async def test_who_follows_the_changes_has_the_list(
    server: Homeserver, alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    follower = Follower(receiving, other, alice.user_id)
    first = CryptoDevice(alice)
    await first.upload()
    await until(lambda: receiving.contents("m.device_list_update"))
    await follower.start()
    assert follower.devices == {alice.device_id: first.device_keys()}
    clients = [await log_in(alice) for _ in range(2)]
    for number, client in enumerate(clients):
        await CryptoDevice(client, 2 + number).upload()
    await alice.put(f"/devices/{alice.device_id}", {"display_name": "Alice's secret phone"})
    await clients[0].post("/logout")
    await follower.follow(5)
    assert set(follower.devices) == {alice.device_id, clients[1].device_id}
    await server.restart()
    await clients[1].post("/logout")
    await follower.follow(1)
    assert follower.devices == {alice.device_id: first.device_keys()}
    again = Follower(receiving, other, alice.user_id)
    await again.start()
    assert again.devices == follower.devices


async def test_devices_without_keys_are_told_as_they_come_and_go(
    alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    follower = Follower(receiving, other, alice.user_id)
    await follower.start()
    client = await log_in(alice)
    await follower.follow(1)
    assert follower.devices == {client.device_id: None}
    await client.post("/logout")
    await follower.follow(1)
    assert follower.devices == {}


async def test_who_comes_with_a_device_without_keys_is_made_known(
    bob: Client, receiving: Receiving, room_id: str
) -> None:
    await bob.join(room_id)
    await until(lambda: receiving.contents("m.device_list_update"))
    (update,) = receiving.contents("m.device_list_update")
    assert (update["user_id"], update["device_id"]) == (bob.user_id, bob.device_id)
    assert "keys" not in update


async def test_cross_signing_keys_and_what_they_sign_are_told(
    alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    device = CryptoDevice(alice)
    await device.upload()
    signer = CrossSigner(alice.user_id)
    await alice.post("/keys/device_signing/upload", signer.upload())
    await until(lambda: receiving.contents("m.signing_key_update"))
    assert receiving.contents("m.signing_key_update") == [
        {
            "user_id": alice.user_id,
            "master_key": signer.master_key(),
            "self_signing_key": signer.upload()["self_signing_key"],
        }
    ]
    signature = signer.sign_device(device.device_keys())
    await alice.post("/keys/signatures/upload", {alice.user_id: {alice.device_id: signature}})
    await until(lambda: len(receiving.contents("m.device_list_update")) == 2)
    first, second = receiving.contents("m.device_list_update")
    assert second["prev_id"] == [first["stream_id"]]
    assert f"ed25519:{public(signer.self_signing)}" in second["keys"]["signatures"][alice.user_id]


async def test_who_shares_no_room_is_not_told(
    alice: Client, bob: Client, receiving: Receiving, room_id: str
) -> None:
    await bob.create_room()
    await CryptoDevice(bob).upload()
    await CryptoDevice(alice).upload()
    await until(lambda: receiving.contents("m.device_list_update"))
    assert {update["user_id"] for update in receiving.contents("m.device_list_update")} == {alice.user_id}


async def test_who_comes_into_a_room_is_made_known_to_its_servers(
    alice: Client, bob: Client, receiving: Receiving, room_id: str
) -> None:
    for client in (bob, await log_in(bob)):
        await CryptoDevice(client).upload()
    assert receiving.contents("m.device_list_update") == []
    await bob.join(room_id)
    await until(lambda: receiving.contents("m.device_list_update"))
    await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Bob"})
    await alice.send(room_id, "end")
    await until(lambda: "end" in receiving.texts)
    (update,) = receiving.contents("m.device_list_update")
    assert update["user_id"] == bob.user_id
    # It follows upon something that the server does not know: so it asks.
    assert update["prev_id"]


async def test_a_server_that_was_away_learns_that_it_has_missed_something(
    alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    """HARDENING 33: a server away through changes; then the lists are equal."""
    await CryptoDevice(alice).upload()
    await until(lambda: receiving.contents("m.device_list_update"))
    (before,) = receiving.contents("m.device_list_update")
    receiving.answer = away
    clients = [await log_in(alice) for _ in range(3)]
    for number, client in enumerate(clients):
        await CryptoDevice(client, 2 + number).upload()
    receiving.answer = taken
    await other.show_life()
    await until(lambda: len(receiving.contents("m.device_list_update")) > 1)
    newest = receiving.contents("m.device_list_update")[-1]
    assert newest["stream_id"] > before["stream_id"]
    follower = Follower(receiving, other, alice.user_id)
    await follower.start()
    assert set(follower.devices) == {alice.device_id, *(client.device_id for client in clients)}
    told = await other.get(f"{USER}/devices/{alice.user_id}")
    assert told["stream_id"] == newest["stream_id"]


@pytest.mark.parametrize("last", ["m.signing_key_update", "m.device_list_update"])
async def test_a_server_that_was_away_learns_of_devices_and_of_keys_whichever_changed_last(
    alice: Client, other: OtherServer, receiving: Receiving, room_id: str, last: str
) -> None:
    device, signer = CryptoDevice(alice), CrossSigner(alice.user_id)
    await device.upload()
    await until(lambda: receiving.contents("m.device_list_update"))
    receiving.answer = away
    if last == "m.signing_key_update":
        await CryptoDevice(await log_in(alice), 2).upload()
        await asyncio.sleep(0.2)
    await alice.post("/keys/device_signing/upload", signer.upload())
    if last == "m.device_list_update":
        await asyncio.sleep(0.2)
        signature = signer.sign_device(device.device_keys())
        await alice.post("/keys/signatures/upload", {alice.user_id: {alice.device_id: signature}})
    await asyncio.sleep(0.2)
    receiving.answer = taken
    await other.show_life()
    await until(lambda: receiving.contents("m.signing_key_update"))
    await until(lambda: len(receiving.contents("m.device_list_update")) == 2)
    (key_update,) = receiving.contents("m.signing_key_update")
    assert key_update["master_key"] == signer.master_key()
    told = await other.get(f"{USER}/devices/{alice.user_id}")
    assert told["stream_id"] == receiving.contents("m.device_list_update")[-1]["stream_id"]


async def test_a_room_that_cannot_be_read_keeps_nobody_in_the_others_from_being_told(
    server: Homeserver, alice: Client, other: OtherServer, receiving: Receiving, room_id: str
) -> None:
    """HARDENING 42."""
    follower = Follower(receiving, other, alice.user_id)
    await follower.start()
    broken = await alice.create_room()
    topic = await alice.set_state(broken, "m.room.topic", {"topic": "unread"})
    await server.stop()
    server.data.damage(topic)
    await server.start()
    client = await log_in(alice)
    await follower.follow(1)
    assert follower.devices == {client.device_id: None}
