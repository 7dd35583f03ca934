"""Dehydrated devices (MSC3814), called as matrix-js-sdk and the Rust SDK call them."""

from typing import Any

import pytest

from homeserver.sync import to_device as queue
from tests.client_api.conftest import Client, Server
from tests.client_api.crypto_device import ALGORITHM, CrossSigner, CryptoDevice, log_in, restart

PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
DATA = {"algorithm": "org.matrix.msc3814.v2", "device_pickle": "sealed", "nonce": "n"}


def dehydration(client: Client, device_id: str, number: int = 5, **more: Any) -> dict[str, Any]:
    device = CryptoDevice(client, number, device_id)
    return {
        "device_id": device_id,
        "device_data": DATA,
        "initial_device_display_name": "Dehydrated device",
        "device_keys": device.device_keys(dehydrated=True),
        "one_time_keys": device.one_time_keys(2),
        "fallback_keys": device.fallback_key(1),
        **more,
    }


async def messages(client: Client, device_id: str, next_batch: str | None = None) -> Any:
    body = {"next_batch": next_batch} if next_batch is not None else {}
    return await client.post(f"{PATH}/{device_id}/events", body)


async def send(sender: Client, user_id: str, device_id: str, number: int) -> None:
    body = {"messages": {user_id: {device_id: {"n": number}}}}
    await sender.put(f"/sendToDevice/m.room.encrypted/d{number}", body)


async def test_without_a_dehydrated_device_the_answer_is_not_found(bob: Client) -> None:
    for method in ("GET", "DELETE"):
        assert (await bob.call(method, PATH, expect=404)).errcode == "M_NOT_FOUND"
    assert (await bob.call("POST", f"{PATH}/X/events", {}, expect=404)).errcode == "M_NOT_FOUND"


async def test_a_dehydrated_device_is_a_device_like_any_other(
    server: Server, alice: Client, bob: Client
) -> None:
    assert await bob.put(PATH, dehydration(bob, "DEHYDRATED")) == {"device_id": "DEHYDRATED"}
    await restart(server, alice, bob)
    assert await bob.get(PATH) == {"device_id": "DEHYDRATED", "device_data": DATA}
    listed = {d["device_id"]: d.get("display_name") for d in (await bob.get("/devices"))["devices"]}
    assert listed["DEHYDRATED"] == "Dehydrated device"
    shown = (await CryptoDevice(alice).query(bob.user_id))["device_keys"][bob.user_id]["DEHYDRATED"]
    assert shown["dehydrated"] is True
    assert shown["unsigned"] == {"device_display_name": "Dehydrated device"}
    device = CryptoDevice(bob, 5, "DEHYDRATED")
    claimed = [await CryptoDevice(alice).claim(device) for _ in range(3)]
    assert len({key[0] for key in claimed if key is not None}) == 3


async def test_its_messages_are_read_page_by_page_and_again_from_the_start(
    alice: Client, bob: Client, carol: Client
) -> None:
    await bob.put(PATH, dehydration(bob, "DEHYDRATED"))
    sent = queue.PAGE + 3
    for number in range(sent):
        await send(alice, bob.user_id, "DEHYDRATED", number)
    for _ in range(2):
        got: list[int] = []
        next_batch: str | None = None
        while (answer := await messages(bob, "DEHYDRATED", next_batch))["events"]:
            assert answer["events"][0]["sender"] == alice.user_id
            got += [event["content"]["n"] for event in answer["events"]]
            next_batch = answer["next_batch"]
        assert got == list(range(sent))
        assert (await messages(bob, "DEHYDRATED", answer["next_batch"]))["events"] == []
    await bob.call("POST", f"{PATH}/DEHYDRATED/events", {"next_batch": "x"}, expect=400)
    await bob.call("GET", f"{PATH}/DEHYDRATED/events", query={"from": "x"}, expect=400)
    await bob.call("POST", f"{PATH}/{bob.device_id}/events", {}, expect=404)
    await carol.call("POST", f"{PATH}/DEHYDRATED/events", {}, expect=404)


async def test_the_last_page_says_so(alice: Client, bob: Client) -> None:
    await bob.put(PATH, dehydration(bob, "a/b+c"))
    events = f"{PATH}/a%2Fb+c/events"
    assert await bob.get(events) == {"events": []}
    for number in range(4):
        await send(alice, bob.user_id, "a/b+c", number)
    for _ in range(2):
        first = await bob.get(events, query={"limit": 2})
        second = await bob.get(events, query={"limit": 2, "from": first["next_batch"]})
        assert [e["content"]["n"] for e in (*first["events"], *second["events"])] == [0, 1, 2, 3]
        assert "next_batch" not in second
    assert len((await bob.get(events))["events"]) == 4


async def test_a_new_dehydrated_device_takes_the_place_of_the_old(alice: Client, bob: Client) -> None:
    await bob.put(PATH, dehydration(bob, "ONE", 5))
    await send(alice, bob.user_id, "ONE", 1)
    await bob.put(PATH, dehydration(bob, "TWO", 6))
    assert (await bob.get(PATH))["device_id"] == "TWO"
    assert {d["device_id"] for d in (await bob.get("/devices"))["devices"]} == {bob.device_id, "TWO"}
    assert list((await CryptoDevice(alice).query(bob.user_id))["device_keys"][bob.user_id]) == ["TWO"]
    assert await CryptoDevice(alice).claim(CryptoDevice(bob, 5, "ONE")) is None
    assert (await messages(bob, "TWO"))["events"] == []
    await bob.call("POST", f"{PATH}/ONE/events", {}, expect=404)


async def test_the_same_upload_again_changes_nothing(alice: Client, bob: Client) -> None:
    body = dehydration(bob, "ONE")
    await bob.put(PATH, body)
    await send(alice, bob.user_id, "ONE", 1)
    first = await CryptoDevice(alice).claim(CryptoDevice(bob, 5, "ONE"))
    await bob.put(PATH, body)
    second = await CryptoDevice(alice).claim(CryptoDevice(bob, 5, "ONE"))
    assert first is not None and second is not None and first[0] != second[0]
    assert len((await messages(bob, "ONE"))["events"]) == 1


async def test_deleting_it_deletes_all_that_is_its_own(alice: Client, bob: Client) -> None:
    await bob.put(PATH, dehydration(bob, "ONE"))
    assert await bob.delete(PATH) == {"device_id": "ONE"}
    await bob.call("GET", PATH, expect=404)
    assert {d["device_id"] for d in (await bob.get("/devices"))["devices"]} == {bob.device_id}
    assert (await CryptoDevice(alice).query(bob.user_id))["device_keys"] == {bob.user_id: {}}


async def test_logging_out_everywhere_takes_it_along(bob: Client) -> None:
    await bob.put(PATH, dehydration(bob, "ONE"))
    await bob.post("/logout/all")
    again = await log_in(bob)
    await again.call("GET", PATH, expect=404)


async def test_others_are_told_of_it(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await alice.sync()
    await bob.put(PATH, dehydration(bob, "ONE"))
    assert (await alice.sync())["device_lists"]["changed"] == [bob.user_id]
    await bob.delete(PATH)
    assert (await alice.sync())["device_lists"]["changed"] == [bob.user_id]


async def test_its_keys_keep_the_signature_of_the_self_signing_key(bob: Client) -> None:
    signer = CrossSigner(bob.user_id)
    await bob.post("/keys/device_signing/upload", signer.upload())
    body = dehydration(bob, "ONE")
    by_self_signing = signer.sign_device(body["device_keys"])["signatures"][bob.user_id]
    body["device_keys"]["signatures"][bob.user_id] |= by_self_signing
    await bob.put(PATH, body)
    shown = (await CryptoDevice(bob).query(bob.user_id))["device_keys"][bob.user_id]["ONE"]
    assert shown["signatures"] == body["device_keys"]["signatures"]


async def test_a_device_in_use_or_a_cross_signing_key_cannot_be_dehydrated(bob: Client) -> None:
    signer = CrossSigner(bob.user_id)
    await bob.post("/keys/device_signing/upload", signer.upload())
    await bob.call("PUT", PATH, dehydration(bob, bob.device_id), expect=400)
    public_key = next(iter(signer.master_key()["keys"].values()))
    await bob.call("PUT", PATH, dehydration(bob, public_key), expect=403)
    await bob.call("GET", PATH, expect=404)


@pytest.mark.parametrize(
    "change",
    [
        {"device_id": None},
        {"device_id": 1},
        {"device_id": ""},
        {"device_id": "x" * 300},
        {"device_data": None},
        {"device_data": "x"},
        {"device_data": {"x": "y" * 300_000}},
        {"device_keys": None},
        {"device_keys": {}},
        {"device_keys": []},
        {"one_time_keys": []},
        {"one_time_keys": {f"{ALGORITHM}:A": 1}},
        {"fallback_keys": {"x": {}}},
        {"initial_device_display_name": 1},
    ],
)
async def test_malformed_dehydrations_are_refused_and_the_old_device_stays(
    bob: Client, change: dict[str, Any]
) -> None:
    await bob.put(PATH, dehydration(bob, "OLD"))
    body = {**dehydration(bob, "NEW", 6), **change}
    reply = await bob.call("PUT", PATH, body, expect=None)
    assert reply.status in (400, 413)
    assert await bob.get(PATH) == {"device_id": "OLD", "device_data": DATA}
    assert {d["device_id"] for d in (await bob.get("/devices"))["devices"]} == {bob.device_id, "OLD"}


async def test_bodies_that_are_no_json_are_refused(bob: Client) -> None:
    for data in (b"", b"[]", b"{", b'"x"'):
        await bob.call("PUT", PATH, data=data, expect=400)
