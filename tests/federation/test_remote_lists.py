"""Devices and keys of other servers' users: asked for, kept, and followed (HARDENING 5, 14 and 33)."""

import asyncio
from typing import Any

import pytest

from tests.client_api.conftest import Client
from tests.client_api.crypto_device import ALGORITHM, CrossSigner, CryptoDevice, key_from, public
from tests.federation.receiving import Receiving
from tests.federation.remote_user import RemoteUser, one_time_key
from tests.federation.servers import Homeserver, OtherServer
from tests.federation.visitor import Visitor
from tests.waiting import until


@pytest.fixture
def remote(server: Homeserver, other: OtherServer, receiving: Receiving) -> RemoteUser:
    """The visitor, with a phone."""
    remote = RemoteUser(server, other)
    remote.add("PHONE")
    return remote


async def query(client: Client, *user_ids: str, **more: Any) -> Any:
    return await client.post("/keys/query", {"device_keys": {user_id: [] for user_id in user_ids}, **more})


async def devices(client: Client, user_id: str) -> dict[str, Any]:
    """The keys of devices as they were uploaded."""
    shown = (await query(client, user_id))["device_keys"].get(user_id, {})
    return {device_id: {**keys, "unsigned": {}} for device_id, keys in shown.items()}


def as_shown(remote: RemoteUser) -> dict[str, Any]:
    return {device_id: {**keys, "unsigned": {}} for device_id, keys in remote.devices.items()}


async def changed(client: Client) -> list[str]:
    """Whose devices are news."""
    found: list[str] = (await client.sync()).get("device_lists", {}).get("changed", [])
    return found


async def test_a_list_is_asked_for_once_and_kept(
    server: Homeserver, alice: Client, bob: Client, remote: RemoteUser, room_id: str
) -> None:
    remote.names["PHONE"] = "The visitor's phone"
    signer = remote.cross_sign()
    first = await query(alice, remote.user_id)
    shown = first["device_keys"][remote.user_id]["PHONE"]
    assert shown == {
        **remote.devices["PHONE"],
        "unsigned": {"device_display_name": "The visitor's phone"},
    }
    assert first["master_keys"] == {remote.user_id: signer.master_key()}
    assert first["self_signing_keys"] == {remote.user_id: signer.upload()["self_signing_key"]}
    assert first["failures"] == {}
    await server.restart()
    # Bob is in no room with the visitor, but what is kept is true for everybody.
    for client in (alice, bob):
        assert await query(client, remote.user_id) == first
    assert remote.asked == ["devices"]
    assert await changed(alice) == []


async def test_changes_that_follow_are_taken_without_asking(
    alice: Client, remote: RemoteUser, room_id: str
) -> None:
    await query(alice, remote.user_id)
    laptop = remote.add("LAPTOP")
    await remote.update("LAPTOP", device_display_name="Laptop")
    assert await changed(alice) == [remote.user_id]
    shown = (await query(alice, remote.user_id))["device_keys"][remote.user_id]
    assert shown["LAPTOP"] == {**laptop, "unsigned": {"device_display_name": "Laptop"}}
    assert set(shown) == {"PHONE", "LAPTOP"}
    del remote.devices["PHONE"]
    await remote.update("PHONE", deleted=True)
    assert await changed(alice) == [remote.user_id]
    assert await devices(alice, remote.user_id) == as_shown(remote)
    # The same once more is no news.
    await remote.edu("m.device_list_update", device_id="PHONE", stream_id=12, prev_id=[11], deleted=True)
    assert await changed(alice) == []
    assert remote.asked == ["devices"]


async def test_a_device_without_keys_is_nobodys_business(
    alice: Client, remote: RemoteUser, room_id: str
) -> None:
    await remote.update("SILENT")
    assert await changed(alice) == []
    assert await devices(alice, remote.user_id) == as_shown(remote)
    await remote.update("SILENT")
    assert await changed(alice) == []
    remote.add("LAPTOP")
    await remote.update("LAPTOP")
    assert await changed(alice) == [remote.user_id]
    assert await devices(alice, remote.user_id) == as_shown(remote)
    # One that has lost its keys is.
    del remote.devices["LAPTOP"]
    await remote.update("LAPTOP")
    assert await changed(alice) == [remote.user_id]
    assert await devices(alice, remote.user_id) == as_shown(remote)
    assert remote.asked == ["devices"]


async def test_changes_between_two_syncs_are_told_on_request(
    alice: Client, remote: RemoteUser, room_id: str
) -> None:
    before = alice.next_batch
    await query(alice, remote.user_id)
    await remote.update("PHONE")
    await alice.sync()
    path = f"/keys/changes?from={before}&to={alice.next_batch}"
    assert await alice.get(path) == {"changed": [remote.user_id], "left": []}


async def test_cross_signing_keys_follow_too(alice: Client, remote: RemoteUser, room_id: str) -> None:
    await query(alice, remote.user_id)
    for number in (1, 2):
        keys = CrossSigner(remote.user_id, number).upload()
        told = {name: keys[name] for name in ("master_key", "self_signing_key")}
        await remote.edu("m.signing_key_update", **told)
        assert await changed(alice) == [remote.user_id]
        shown = await query(alice, remote.user_id)
        assert shown["master_keys"][remote.user_id] == keys["master_key"]
        assert shown["self_signing_keys"][remote.user_id] == keys["self_signing_key"]
    assert await devices(alice, remote.user_id) == as_shown(remote)
    assert remote.asked == ["devices"]


async def test_another_servers_users_can_be_verified(alice: Client, remote: RemoteUser, room_id: str) -> None:
    signer = remote.cross_sign()
    own = CrossSigner(alice.user_id, 7)
    await alice.post("/keys/device_signing/upload", own.upload())
    await query(alice, remote.user_id)
    signed = {remote.user_id: {public(signer.master): own.sign_user(signer.master_key())}}
    assert await alice.post("/keys/signatures/upload", signed) == {"failures": {}}
    master = (await query(alice, remote.user_id))["master_keys"][remote.user_id]
    assert alice.user_id in master["signatures"]


@pytest.mark.parametrize("prev_id", [[], [3], [10, 3]])
async def test_a_gap_makes_the_list_one_that_is_asked_for_again(
    alice: Client, remote: RemoteUser, room_id: str, prev_id: list[int]
) -> None:
    """HARDENING 33: no change of a list is lost."""
    await query(alice, remote.user_id)
    remote.add("LAPTOP")
    remote.add("TABLET")
    await remote.update("TABLET", prev_id=prev_id)
    assert await changed(alice) == [remote.user_id]
    assert await devices(alice, remote.user_id) == as_shown(remote)
    assert remote.asked == ["devices", "devices"]
    # From there on changes follow upon it.
    del remote.devices["LAPTOP"]
    await remote.update("LAPTOP", deleted=True)
    assert await devices(alice, remote.user_id) == as_shown(remote)
    assert remote.asked == ["devices", "devices"]


async def test_a_list_that_cannot_be_had_is_got_at_a_sign_of_life(
    server: Homeserver, other: OtherServer, alice: Client, remote: RemoteUser, room_id: str
) -> None:
    """HARDENING 33: a server away through a change; then the lists are equal."""
    await query(alice, remote.user_id)
    remote.changes = {"devices": "none"}
    remote.add("LAPTOP")
    await remote.update("LAPTOP", prev_id=[])
    assert await changed(alice) == [remote.user_id]
    answer = await query(alice, remote.user_id)
    assert answer["device_keys"] == {}
    assert set(answer["failures"]) == {other.name}
    remote.changes = {}
    await other.show_life()

    async def got() -> bool:
        return await changed(alice) == [remote.user_id]

    await until(got)
    asked = len(remote.asked)
    assert await devices(alice, remote.user_id) == as_shown(remote)
    assert len(remote.asked) == asked


async def test_who_had_no_answer_hears_when_there_is_one(
    other: OtherServer, alice: Client, remote: RemoteUser, room_id: str
) -> None:
    remote.changes = {"user_id": alice.user_id}
    assert set((await query(alice, remote.user_id))["failures"]) == {other.name}
    assert await changed(alice) == []
    remote.changes = {}
    await other.show_life()

    async def heard() -> bool:
        return await changed(alice) == [remote.user_id]

    await until(heard)
    assert await devices(alice, remote.user_id) == as_shown(remote)


async def test_an_answer_from_before_a_change_is_not_kept(
    alice: Client, remote: RemoteUser, room_id: str
) -> None:
    """HARDENING 33: the change comes while the list is being told, and before its answer."""
    remote.answering.clear()
    asking = asyncio.create_task(query(alice, remote.user_id))
    async with asyncio.timeout(10):
        while not remote.asked:
            await asyncio.sleep(0.01)
    remote.add("LAPTOP")
    await remote.update("LAPTOP")
    remote.answering.set()
    assert set((await asking)["device_keys"][remote.user_id]) == {"PHONE"}
    assert await changed(alice) == [remote.user_id]
    assert await devices(alice, remote.user_id) == as_shown(remote)


async def test_lists_of_whom_nobody_here_meets_are_not_kept(
    alice: Client, visitor: Visitor, remote: RemoteUser
) -> None:
    for _ in range(2):
        assert await devices(alice, remote.user_id) == as_shown(remote)
    await remote.update("PHONE", prev_id=[])
    assert remote.asked == ["query", "query"]


async def test_a_change_is_news_to_those_who_meet_the_user_though_no_list_is_kept(
    alice: Client, bob: Client, remote: RemoteUser, room_id: str
) -> None:
    await bob.sync()
    await remote.update("PHONE")
    assert await changed(alice) == [remote.user_id]
    assert await changed(bob) == []
    assert remote.asked == []
    assert await devices(alice, remote.user_id) == as_shown(remote)


async def test_a_list_too_long_to_be_kept_is_asked_for_each_time(
    alice: Client, remote: RemoteUser, room_id: str
) -> None:
    """HARDENING 14: nobody fills the store with devices."""
    for number in range(400):
        remote.add(f"D{number}")
    for count in (1, 2):
        assert len(await devices(alice, remote.user_id)) == 401
        assert len(remote.asked) == count
    await remote.update("PHONE")
    assert await changed(alice) == [remote.user_id]


async def test_a_list_is_forgotten_with_the_last_shared_room(
    alice: Client, bob: Client, visitor: Visitor, remote: RemoteUser, room_id: str
) -> None:
    second = await bob.create_room(preset="public_chat")
    await visitor.member(second, "join")
    await query(alice, remote.user_id)
    await visitor.member(room_id, "leave")
    assert (await alice.sync())["device_lists"]["left"] == [remote.user_id]
    # Bob still follows.
    await query(bob, remote.user_id)
    assert remote.asked == ["devices"]
    await bob.leave(second)

    async def forgotten() -> bool:
        await query(bob, remote.user_id)
        return remote.asked[-1] == "query"

    await until(forgotten)
    # What changed meanwhile was not told; with the next shared room it is asked for.
    remote.add("LAPTOP")
    remote.stream_id += 1
    await visitor.member(room_id, "join")
    assert remote.user_id in await changed(alice)
    assert await devices(alice, remote.user_id) == as_shown(remote)


async def test_a_list_that_is_yet_to_be_forgotten_is_no_answer(
    server: Homeserver, alice: Client, visitor: Visitor, remote: RemoteUser, room_id: str
) -> None:
    """Whoever shares no room is told of no change."""
    await query(alice, remote.user_id)
    for consumer in server.app.ground.consumers:
        if consumer.name == "remote_lists":
            consumer.own(())
    await visitor.member(room_id, "leave")
    remote.add("LAPTOP")
    remote.stream_id += 1
    assert await devices(alice, remote.user_id) == as_shown(remote)
    assert remote.asked == ["devices", "query"]


async def test_nobody_but_the_users_own_server_changes_a_list(
    server: Homeserver, alice: Client, remote: RemoteUser, room_id: str
) -> None:
    """HARDENING 5."""
    await query(alice, remote.user_id)
    federation = server.app.federation
    assert federation is not None
    for edu_type in ("m.device_list_update", "m.signing_key_update"):
        for user_id in (remote.user_id, alice.user_id):
            content = {"user_id": user_id, "device_id": "PHONE", "stream_id": 11, "prev_id": [10]}
            await federation.edus.receive("evil.example.org", {"edu_type": edu_type, "content": content})
        await federation.edus.receive("evil.example.org", {"edu_type": edu_type, "content": [1]})
        assert federation.edus.dropped[edu_type] == 3
    assert await devices(alice, remote.user_id) == as_shown(remote)
    assert await changed(alice) == []
    assert remote.asked == ["devices"]


async def test_what_a_server_says_of_a_device_must_be_that_devices_keys(
    other: OtherServer, alice: Client, remote: RemoteUser, room_id: str
) -> None:
    """HARDENING 5 and 14: the rest of the answer counts."""
    good = remote.devices["PHONE"]
    bad = [
        {"device_id": "A", "keys": good},
        {"device_id": "B", "keys": {**remote.add("B"), "user_id": alice.user_id}},
        {"device_id": "C", "keys": {**remote.add("C"), "filling": "x" * 20_000}},
        {"device_id": "D", "keys": {**remote.add("D"), "keys": {"ed25519:D": "short"}}},
        {"device_id": ["E"], "keys": good},
        {"device_id": "F", "keys": [1]},
        "G",
    ]
    remote.changes = {
        "devices": [*bad, {"device_id": "PHONE", "keys": good, "device_display_name": ["x"]}],
        "master_key": {"user_id": alice.user_id, "usage": ["master"], "keys": {}},
        "self_signing_key": 3,
    }
    answer = await query(alice, remote.user_id)
    assert answer["device_keys"] == {remote.user_id: {"PHONE": {**good, "unsigned": {}}}}
    assert answer["master_keys"] == answer["self_signing_keys"] == {}
    for keys in ({**good, "device_id": "OTHER"}, {"no": "keys"}):
        await remote.update("PHONE", keys=keys)
        assert (await query(alice, remote.user_id))["device_keys"] == {remote.user_id: {}}


async def test_a_server_speaks_for_nobody_elses_users(
    other: OtherServer, alice: Client, bob: Client, remote: RemoteUser
) -> None:
    """HARDENING 5: what it was not asked about is passed over."""
    own = CryptoDevice(bob)
    await own.upload()
    forged = {**own.device_keys(), "keys": {own.key_id: public(key_from(999))}}
    master = CrossSigner(bob.user_id, 9).master_key()
    told = {"device_keys": {bob.user_id: {bob.device_id: forged}}, "master_keys": {bob.user_id: master}}
    remote.changes = told
    answer = await query(alice, remote.user_id, bob.user_id)
    assert answer["device_keys"][bob.user_id][bob.device_id]["keys"] == own.device_keys()["keys"]
    assert answer["master_keys"] == {}
    remote.changes = {"one_time_keys": {bob.user_id: {bob.device_id: {f"{ALGORITHM}:X": one_time_key("x")}}}}
    wanted = {bob.user_id: {bob.device_id: ALGORITHM}, remote.user_id: {"PHONE": ALGORITHM}}
    assert (await alice.post("/keys/claim", {"one_time_keys": wanted}))["one_time_keys"] == {}


async def test_a_silent_server_takes_the_time_of_the_request_and_no_more(
    other: OtherServer, alice: Client, bob: Client, remote: RemoteUser, room_id: str
) -> None:
    own = CryptoDevice(bob)
    await own.upload(one_time=1)
    remote.answering.clear()
    answer = await query(alice, remote.user_id, bob.user_id, timeout=50)
    assert set(answer["device_keys"]) == {bob.user_id}
    assert set(answer["failures"]) == {other.name}
    wanted = {bob.user_id: {bob.device_id: ALGORITHM}, remote.user_id: {"PHONE": ALGORITHM}}
    answer = await alice.post("/keys/claim", {"one_time_keys": wanted, "timeout": 50})
    assert set(answer["one_time_keys"]) == {bob.user_id}
    assert set(answer["failures"]) == {other.name}
    # The answer is kept when it comes; the question is not put twice.
    remote.answering.set()
    assert await devices(alice, remote.user_id) == as_shown(remote)
    assert remote.asked == ["devices", "claim"]


async def test_keys_are_claimed_of_other_servers(alice: Client, remote: RemoteUser) -> None:
    wanted = {remote.user_id: {"PHONE": ALGORITHM}}
    answer = await alice.post("/keys/claim", {"one_time_keys": wanted})
    claimed = {"PHONE": {f"{ALGORITHM}:K1": one_time_key(remote.user_id)}}
    assert answer == {"one_time_keys": {remote.user_id: claimed}, "failures": {}}


@pytest.mark.parametrize(
    "keys",
    [
        {"curve25519:K1": "x"},
        {f"{ALGORITHM}:K1": {"key": "x"}},
        {f"{ALGORITHM}:K1": one_time_key("x"), f"{ALGORITHM}:K2": one_time_key("x")},
        [f"{ALGORITHM}:K1"],
    ],
)
async def test_claimed_keys_are_those_that_were_asked_for(
    alice: Client, remote: RemoteUser, keys: Any
) -> None:
    """HARDENING 14."""
    remote.changes = {"one_time_keys": {remote.user_id: {"PHONE": keys}}}
    wanted = {remote.user_id: {"PHONE": ALGORITHM}}
    answer = await alice.post("/keys/claim", {"one_time_keys": wanted})
    assert answer == {"one_time_keys": {}, "failures": {}}


async def test_keys_pass_between_two_servers(server: Homeserver, second: Homeserver, alice: Client) -> None:
    theirs = await second.register("carol")
    device = CryptoDevice(theirs)
    await device.upload(one_time=1)
    await theirs.put(f"/devices/{theirs.device_id}", {"display_name": "Carol's secret phone"})
    signer = CrossSigner(theirs.user_id)
    await theirs.post("/keys/device_signing/upload", signer.upload())
    answer = await query(alice, theirs.user_id)
    assert answer["device_keys"] == {
        theirs.user_id: {theirs.device_id: {**device.device_keys(), "unsigned": {}}}
    }
    assert answer["master_keys"] == {theirs.user_id: signer.master_key()}
    own = CryptoDevice(alice, 2)
    claimed = await own.claim(device)
    assert claimed is not None
    assert claimed[0] == f"{ALGORITHM}:K0000"
    assert await own.claim(device) is None
