"""Devices and encryption keys of this server's users, as other servers ask for them (HARDENING 33)."""

from tests.client_api.conftest import Client
from tests.client_api.crypto_device import ALGORITHM, CrossSigner, CryptoDevice, log_in
from tests.federation.servers import Homeserver, OtherServer

USER = "/_matrix/federation/v1/user"


async def test_keys_are_told_as_they_were_uploaded_without_the_names_of_devices(
    other: OtherServer, alice: Client
) -> None:
    device = CryptoDevice(alice)
    await device.upload()
    signer = CrossSigner(alice.user_id)
    await alice.post("/keys/device_signing/upload", signer.upload())
    await alice.put(f"/devices/{alice.device_id}", {"display_name": "Alice's secret phone"})
    answer = await other.post(f"{USER}/keys/query", {"device_keys": {alice.user_id: []}})
    assert answer == {
        "device_keys": {alice.user_id: {alice.device_id: {**device.device_keys(), "unsigned": {}}}},
        "master_keys": {alice.user_id: signer.master_key()},
        "self_signing_keys": {alice.user_id: signer.upload()["self_signing_key"]},
    }
    own = await alice.post("/keys/query", {"device_keys": {alice.user_id: []}})
    assert own["device_keys"][alice.user_id][alice.device_id]["unsigned"]


async def test_only_wanted_devices_of_own_users_are_told(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    second = await log_in(alice)
    for number, client in enumerate((alice, second)):
        await CryptoDevice(client, number + 1).upload()
    wanted = {
        alice.user_id: [second.device_id, "NONE"],
        f"@nobody:{server.name}": [],
        f"@alice:{other.name}": [],
    }
    answer = await other.post(f"{USER}/keys/query", {"device_keys": wanted})
    assert set(answer["device_keys"][alice.user_id]) == {second.device_id}
    assert f"@alice:{other.name}" not in answer["device_keys"]
    many = {f"@user{n}:{server.name}": [] for n in range(1001)}
    await other.call("POST", f"{USER}/keys/query", {"device_keys": many}, expect=400)


async def test_the_list_of_devices_has_a_number_that_grows(other: OtherServer, alice: Client) -> None:
    path = f"{USER}/devices/{alice.user_id}"
    nothing = await other.get(path)
    assert nothing["devices"] == []
    device = CryptoDevice(alice)
    await device.upload()
    signer = CrossSigner(alice.user_id)
    await alice.post("/keys/device_signing/upload", signer.upload())
    first = await other.get(path)
    assert first["user_id"] == alice.user_id
    assert first["devices"] == [{"device_id": alice.device_id, "keys": device.device_keys()}]
    assert first["master_key"] == signer.master_key()
    second = await log_in(alice)
    await CryptoDevice(second, 2).upload()
    more = await other.get(path)
    assert len(more["devices"]) == 2
    await second.post("/logout")
    fewer = await other.get(path)
    assert fewer["devices"] == first["devices"]
    assert nothing["stream_id"] < first["stream_id"] < more["stream_id"] < fewer["stream_id"]


async def test_the_number_outlives_a_restart(server: Homeserver, other: OtherServer, alice: Client) -> None:
    second = await log_in(alice)
    await CryptoDevice(second).upload()
    await second.post("/logout")
    before = await other.get(f"{USER}/devices/{alice.user_id}")
    await server.restart()
    assert await other.get(f"{USER}/devices/{alice.user_id}") == before


async def test_devices_of_other_servers_users_are_not_known(other: OtherServer) -> None:
    reply = await other.call("GET", f"{USER}/devices/@alice:{other.name}", expect=404)
    assert reply.errcode == "M_NOT_FOUND"
    await other.call("GET", f"{USER}/devices/alice", expect=400)


async def test_no_one_time_key_is_given_away_twice(
    server: Homeserver, other: OtherServer, alice: Client, bob: Client
) -> None:
    device = CryptoDevice(alice)
    await device.upload(one_time=3, fallback_keys=device.fallback_key(1))
    wanted = {
        "one_time_keys": {
            alice.user_id: {alice.device_id: ALGORITHM, "NONE": ALGORITHM},
            f"@bob:{other.name}": {"DEVICE": ALGORITHM},
        }
    }
    claimed = []
    for _ in range(2):
        answer = await other.post(f"{USER}/keys/claim", wanted)
        assert set(answer) == {"one_time_keys"}
        assert set(answer["one_time_keys"]) == {alice.user_id}
        ((name, _),) = answer["one_time_keys"][alice.user_id][alice.device_id].items()
        claimed.append(name)
    here = await CryptoDevice(bob, 2).claim(device)
    assert here is not None
    claimed.append(here[0])
    assert len(set(claimed)) == 3
    answer = await other.post(f"{USER}/keys/claim", wanted)
    assert answer["one_time_keys"][alice.user_id][alice.device_id] == device.fallback_key(1)
