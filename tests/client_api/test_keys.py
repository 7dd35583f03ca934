"""Device keys, one-time keys and fallback keys (spec: client-server "End-to-End Encryption")."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from homeserver.app.stores import begin_epoch, opened_store
from homeserver.e2ee.key_objects import MAX_ONE_TIME_KEYS
from storage.errors import OutcomeUnknown, StoreUnavailable
from storage.records.keys import ONE_TIME_KEYS, OneTimeKey
from storage.store import Store
from tests.client_api.conftest import Client, Server
from tests.client_api.crypto_device import ALGORITHM, CryptoDevice, log_in, restart, serving
from tests.client_api.sliding import Sliding
from tests.storage.faulty import FaultyStore

# Identity keys


async def test_uploaded_device_keys_are_shown_as_signed_with_the_display_name(
    alice: Client, bob: Client
) -> None:
    phone = await log_in(bob, initial_device_display_name="Bob's phone")
    device = CryptoDevice(phone)
    await device.upload()
    answer = await CryptoDevice(alice).query(bob.user_id)
    shown = answer["device_keys"][bob.user_id][phone.device_id]
    assert shown.pop("unsigned") == {"device_display_name": "Bob's phone"}
    assert shown == device.device_keys()
    assert answer["failures"] == {}


async def test_query_gives_only_the_devices_asked_for(bob: Client) -> None:
    one, two = CryptoDevice(bob), CryptoDevice(await log_in(bob), 2)
    await one.upload()
    await two.upload()
    wanted = {bob.user_id: [two.device_id, "NOSUCH"]}
    answer = await bob.post("/keys/query", {"device_keys": wanted})
    assert list(answer["device_keys"][bob.user_id]) == [two.device_id]


async def test_query_reports_the_servers_it_cannot_ask(alice: Client) -> None:
    answer = await alice.post("/keys/query", {"device_keys": {"@x:elsewhere.example": []}})
    assert list(answer["failures"]) == ["elsewhere.example"]
    assert answer["device_keys"] == {}


async def test_a_renamed_device_is_shown_under_its_new_name(alice: Client, bob: Client) -> None:
    await CryptoDevice(bob).upload()
    await bob.put(f"/devices/{bob.device_id}", {"display_name": "new"})
    shown = (await CryptoDevice(alice).query(bob.user_id))["device_keys"][bob.user_id][bob.device_id]
    assert shown["unsigned"] == {"device_display_name": "new"}


@pytest.mark.parametrize("uploaded_before", [False, True])
async def test_keys_that_come_while_their_device_is_deleted_are_not_published(
    server: Server, alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch, uploaded_before: bool
) -> None:
    phone = await log_in(bob)
    device = CryptoDevice(phone)
    if uploaded_before:
        await device.upload()
    one_time_keys = server.app.syncing.one_time_keys
    upload = one_time_keys.upload

    async def logged_out_meanwhile(*keys: Any) -> None:
        await upload(*keys)
        await phone.post("/logout")

    monkeypatch.setattr(one_time_keys, "upload", logged_out_meanwhile)
    other_keys = CryptoDevice(phone, 2).device_keys()
    reply = await phone.call("POST", "/keys/upload", {"device_keys": other_keys}, expect=None)
    assert reply.status == 404
    assert (await CryptoDevice(alice).query(bob.user_id))["device_keys"][bob.user_id] == {}


async def test_keys_are_uploaded_to_the_path_of_the_device_itself_too(alice: Client, bob: Client) -> None:
    """As older clients do it."""
    keys = CryptoDevice(bob).device_keys()
    await bob.post(f"/keys/upload/{bob.device_id}", {"device_keys": keys})
    shown = (await CryptoDevice(alice).query(bob.user_id))["device_keys"][bob.user_id]
    assert shown == {bob.device_id: {**keys, "unsigned": {}}}
    reply = await alice.call("POST", f"/keys/upload/{bob.device_id}", {}, expect=400)
    assert reply.errcode == "M_INVALID_PARAM"


async def test_a_deleted_device_has_no_keys(alice: Client, bob: Client) -> None:
    device = CryptoDevice(bob)
    other = await log_in(bob)
    await CryptoDevice(other, 2).upload()
    await device.upload(one_time=3, fallback_keys=device.fallback_key(1))
    await bob.post("/logout")
    asking = CryptoDevice(alice)
    assert list((await asking.query(bob.user_id))["device_keys"][bob.user_id]) == [other.device_id]
    assert await asking.claim(device) is None


async def test_a_device_id_that_is_used_again_inherits_nothing(bob: Client, alice: Client) -> None:
    device = CryptoDevice(bob)
    await device.upload(one_time=3)
    await bob.post("/logout")
    again = await log_in(bob, device_id=device.device_id)
    assert await CryptoDevice(alice).claim(device) is None
    assert (await again.sync())["device_one_time_keys_count"] == {ALGORITHM: 0}


async def test_keys_that_arrive_while_the_device_is_logged_out_are_not_inherited_either(
    server: Server, alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = CryptoDevice(bob)
    await device.upload()
    one_time_keys = server.app.syncing.one_time_keys
    upload = one_time_keys.upload

    async def overtaken(*args: Any) -> None:
        monkeypatch.undo()
        await bob.post("/logout")
        await upload(*args)

    monkeypatch.setattr(one_time_keys, "upload", overtaken)
    late = {"one_time_keys": device.one_time_keys(3)}
    await bob.call("POST", "/keys/upload", late, expect=None)
    again = await log_in(bob, device_id=device.device_id)
    assert await CryptoDevice(alice).claim(device) is None
    assert (await again.sync())["device_one_time_keys_count"] == {ALGORITHM: 0}


async def test_identity_keys_survive_a_restart(server: Server, bob: Client) -> None:
    device = CryptoDevice(bob)
    await device.upload(one_time=2)
    await restart(server, bob)
    shown = (await device.query(bob.user_id))["device_keys"][bob.user_id][bob.device_id]
    assert shown["keys"] == device.device_keys()["keys"]
    assert (await bob.sync())["device_one_time_keys_count"] == {ALGORITHM: 2}


async def test_new_identity_keys_of_a_device_drop_the_one_time_keys_of_the_old(
    alice: Client, bob: Client
) -> None:
    await CryptoDevice(bob, 1).upload(one_time=5)
    new = CryptoDevice(bob, 2)
    assert await new.upload(one_time=1) == {ALGORITHM: 1}
    claimed = await CryptoDevice(alice).claim(new)
    assert claimed is not None
    assert claimed[1] == new.one_time_key(0)


@pytest.mark.parametrize(
    ("change", "errcode"),
    [
        ({"user_id": "@somebody:localhost"}, "M_INVALID_PARAM"),
        ({"device_id": "OTHER"}, "M_INVALID_PARAM"),
        ({"algorithms": None}, "M_BAD_JSON"),
        ({"algorithms": "m.olm"}, "M_BAD_JSON"),
        ({"algorithms": [1]}, "M_BAD_JSON"),
        ({"algorithms": ["x"] * 1000}, "M_BAD_JSON"),
        ({"keys": {}}, "M_BAD_JSON"),
        ({"keys": []}, "M_BAD_JSON"),
        ({"keys": {"ed25519:OTHER": "x"}}, "M_BAD_JSON"),
        ({"keys": {"ed25519": "x"}}, "M_BAD_JSON"),
        ({"signatures": "x"}, "M_BAD_JSON"),
        ({"number": 1.5}, "M_BAD_JSON"),
        ({"number": 2**60}, "M_BAD_JSON"),
        ({"long": "x" * 20_000}, "M_TOO_LARGE"),
    ],
)
async def test_malformed_device_keys_are_refused_and_nothing_is_stored(
    bob: Client, change: dict[str, Any], errcode: str
) -> None:
    device = CryptoDevice(bob)
    body = {"device_keys": {**device.device_keys(), **change}, "one_time_keys": device.one_time_keys(1)}
    reply = await bob.call("POST", "/keys/upload", body, expect=None)
    assert reply.status in (400, 413)
    assert reply.errcode == errcode
    assert (await device.query(bob.user_id))["device_keys"] == {bob.user_id: {}}
    assert (await bob.sync())["device_one_time_keys_count"] == {ALGORITHM: 0}


async def test_deeply_nested_device_keys_are_refused(bob: Client) -> None:
    device = CryptoDevice(bob)
    nested: Any = {}
    for _ in range(50):
        nested = {"a": nested}
    reply = await bob.call(
        "POST", "/keys/upload", {"device_keys": {**device.device_keys(), "x": nested}}, expect=400
    )
    assert reply.errcode == "M_BAD_JSON"


@pytest.mark.parametrize("path", ["upload", "query", "claim", "signatures/upload", "device_signing/upload"])
@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"1",
        b'"x"',
        b"{",
        b'{"device_keys":1,"one_time_keys":1,"master_key":1,"@a:b":1}',
        b'{"device_keys":{"@a:b":1},"one_time_keys":{"@a:b":1},"master_key":[],"@a:b":{"x":1}}',
        b'{"device_keys":{"@a:b":[1]},"one_time_keys":{"@a:b":{"D":1}},"master_key":"","@a:b":[]}',
    ],
)
async def test_bodies_of_wrong_types_are_refused(bob: Client, path: str, body: bytes) -> None:
    await bob.call("POST", f"/keys/{path}", data=body, expect=400)


@pytest.mark.parametrize("path", ["upload", "query", "claim"])
async def test_a_body_nested_without_end_is_refused(bob: Client, path: str) -> None:
    await bob.call("POST", f"/keys/{path}", data=b'{"device_keys":' * 20_000, expect=400)


async def test_what_is_no_user_id_cannot_be_queried_or_claimed(alice: Client) -> None:
    for user_id in ("nobody", "@:", "", "@a:b c"):
        await alice.call("POST", "/keys/query", {"device_keys": {user_id: []}}, expect=400)
        wanted = {"one_time_keys": {user_id: {"D": ALGORITHM}}}
        await alice.call("POST", "/keys/claim", wanted, expect=400)


async def test_guests_may_use_keys_but_no_cross_signing(server: Server, alice: Client) -> None:
    guest = server.client()
    body = await guest.post("/register", query={"kind": "guest"})
    guest.token, guest.user_id, guest.device_id = body["access_token"], body["user_id"], body["device_id"]
    device = CryptoDevice(guest)
    assert await device.upload(one_time=1) == {ALGORITHM: 1}
    assert guest.device_id in (await device.query(guest.user_id))["device_keys"][guest.user_id]
    assert await device.claim(device) is not None
    await guest.put("/sendToDevice/m.test/1", {"messages": {alice.user_id: {"*": {"n": 1}}}})
    assert len((await alice.sync())["to_device"]["events"]) == 1
    reply = await guest.call("POST", "/keys/device_signing/upload", {}, expect=403)
    assert reply.errcode == "M_GUEST_ACCESS_FORBIDDEN"


# One-time keys


async def test_one_time_keys_are_counted_in_answers_and_syncs(alice: Client, bob: Client) -> None:
    device = CryptoDevice(bob)
    assert await device.upload(one_time=3) == {ALGORITHM: 3}
    assert (await bob.sync())["device_one_time_keys_count"] == {ALGORITHM: 3}
    await CryptoDevice(alice).claim(device)
    assert (await bob.sync())["device_one_time_keys_count"] == {ALGORITHM: 2}
    more = await bob.post("/keys/upload", {"one_time_keys": device.one_time_keys(2)})
    assert more["one_time_key_counts"] == {ALGORITHM: 4}
    assert (await bob.post("/keys/upload"))["one_time_key_counts"] == {ALGORITHM: 4}
    assert (await bob.sync())["device_one_time_keys_count"] == {ALGORITHM: 4}


async def test_a_device_that_has_no_keys_left_is_told_so(alice: Client, bob: Client) -> None:
    """Clients upload new keys when a count is told that is too low, and not when none is."""
    device = CryptoDevice(bob)
    assert await device.upload() == {ALGORITHM: 0}
    await device.upload(one_time=1)
    await bob.sync()
    sliding = Sliding(bob, extensions={"e2ee": {"enabled": True}})
    await sliding.poll()
    await CryptoDevice(alice).claim(device)
    for body in (await bob.sync(), (await sliding.poll())["extensions"]["e2ee"]):
        assert body["device_one_time_keys_count"] == {ALGORITHM: 0}
    assert (await bob.post("/keys/upload"))["one_time_key_counts"] == {ALGORITHM: 0}


async def test_keys_are_claimed_in_the_order_of_their_uploads(alice: Client, bob: Client) -> None:
    device, asking = CryptoDevice(bob), CryptoDevice(alice)
    names = ["Z", "M", "A"]
    for number, name in enumerate(names):
        await bob.post(
            "/keys/upload", {"one_time_keys": {f"{ALGORITHM}:{name}": device.one_time_key(number)}}
        )
    claimed = [await asking.claim(device) for _ in names]
    assert [key and key[0] for key in claimed] == [f"{ALGORITHM}:{name}" for name in names]
    assert await asking.claim(device) is None


async def test_a_device_that_replaces_each_claimed_key_never_runs_out(alice: Client, bob: Client) -> None:
    device, asking = CryptoDevice(bob), CryptoDevice(alice)
    uploaded = device.one_time_keys(5)
    await bob.post("/keys/upload", {"one_time_keys": uploaded})
    claimed = []
    for _ in range(30):
        claimed.append(await asking.claim(device))
        another = device.one_time_keys(1)
        answer = await bob.post("/keys/upload", {"one_time_keys": another})
        assert answer["one_time_key_counts"] == {ALGORITHM: 5}
        uploaded |= another
    assert claimed == list(uploaded.items())[:30]


async def test_all_keys_of_an_upload_are_claimed_before_those_of_the_next(alice: Client, bob: Client) -> None:
    device, asking = CryptoDevice(bob), CryptoDevice(alice)
    uploads = [device.one_time_keys(count) for count in (20, 1, 35)]
    for upload in uploads:
        await bob.post("/keys/upload", {"one_time_keys": upload})
    for upload in uploads:
        claimed = [await asking.claim(device) for _ in upload]
        assert dict(key for key in claimed if key is not None) == upload
    assert await asking.claim(device) is None


async def test_a_key_that_was_claimed_leaves_its_name_to_another(alice: Client, bob: Client) -> None:
    device, asking = CryptoDevice(bob), CryptoDevice(alice)
    await device.upload(one_time=40)
    others = device.one_time_keys(40)
    early = [await asking.claim(device) for _ in range(10)]
    taken = {key[0] for key in early if key is not None}
    for n, other in enumerate(others.values()):
        name = f"{ALGORITHM}:K{n:04}"
        status = 200 if name in taken else 400
        await bob.call("POST", "/keys/upload", {"one_time_keys": {name: other}}, expect=status)
    late = [await asking.claim(device) for _ in range(40)]
    claimed = [key for key in (*early, *late) if key is not None]
    assert len(claimed) == len({key["key"] for _, key in claimed}) == 50


async def test_the_same_key_may_be_uploaded_again_another_under_its_name_not(bob: Client) -> None:
    device = CryptoDevice(bob)
    first = {f"{ALGORITHM}:A": device.one_time_key(1)}
    for _ in range(2):
        answer = await bob.post("/keys/upload", {"one_time_keys": first})
        assert answer["one_time_key_counts"] == {ALGORITHM: 1}
    other = {f"{ALGORITHM}:A": device.one_time_key(2), f"{ALGORITHM}:B": device.one_time_key(3)}
    reply = await bob.call("POST", "/keys/upload", {"one_time_keys": other}, expect=400)
    assert reply.errcode == "M_UNKNOWN"
    assert (await bob.post("/keys/upload"))["one_time_key_counts"] == {ALGORITHM: 1}


async def test_a_repeated_upload_brings_no_claimed_key_back(alice: Client, bob: Client) -> None:
    """HARDENING 33: the answer was lost, somebody claimed, the client uploads once more."""
    device, asking = CryptoDevice(bob), CryptoDevice(alice)
    body = {"device_keys": device.device_keys(), "one_time_keys": device.one_time_keys(2)}
    await bob.post("/keys/upload", body)
    first = await asking.claim(device)
    await bob.post("/keys/upload", body)
    second = await asking.claim(device)
    assert first is not None and second is not None and first[0] != second[0]
    assert await asking.claim(device) is None


def key_of(client: Client, **changes: Any) -> Any:
    """A key as all clients make them, with changes."""
    key = {"key": "k" * 43, "signatures": {"@bob:test": {"ed25519:DEVICE": "s" * 86}}, **changes}
    return json.loads(
        json.dumps(key).replace("@bob:test", client.user_id).replace("DEVICE", client.device_id)
    )


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("signed_curve25519:A", {}),
        ("signed_curve25519:ключ", {}),
        ("signed_curve25519:" + "A" * 200, {}),
        ("signed_curve25519:A", {"key": 'k"\\ü' + "k" * 39}),
        ("signed_curve25519:A", {"key": "k" * 43 + "="}),
        ("signed_curve25519:A", {"timestamp": 5}),
        ("signed_curve25519:A", {"signatures": {}}),
        ("signed_curve25519:A", {"signatures": {"@bob:test": {"ed25519:DEVICE": ""}}}),
        ("signed_curve25519:A", {"signatures": {"@bob:test": {"ed25519:OTHER": "s" * 86}}}),
        ("signed_curve25519:A", {"signatures": {"@bob:test": {"ed25519:DEVICE": ["s"] * 86}}}),
        ("signed_curve25519:A", {"signatures": {"@eve:test": {"ed25519:DEVICE": "s" * 86}}}),
        (
            "signed_curve25519:A",
            {"signatures": {u: {"ed25519:DEVICE": "s" * 86} for u in ("@bob:test", "@eve:test")}},
        ),
        (
            "signed_curve25519:A",
            {"signatures": {"@bob:test": {f"ed25519:{d}": "s" * 86 for d in ("DEVICE", "OTHER")}}},
        ),
        ("curve25519:A", {}),
        ("curve25519:A", "k" * 43),
        ("curve25519:A", ""),
    ],
)
async def test_a_key_of_whatever_form_is_claimed_as_it_was_uploaded(
    alice: Client, bob: Client, name: str, changes: Any
) -> None:
    key = changes if isinstance(changes, str) else key_of(bob, **changes)
    algorithm, before = name.partition(":")[0], CryptoDevice(bob).one_time_key(1)
    await bob.post("/keys/upload", {"one_time_keys": {f"{algorithm}:FIRST": before}})
    for _ in range(2):
        answer = await bob.post("/keys/upload", {"one_time_keys": {name: key, f"{algorithm}:LAST": before}})
        assert answer["one_time_key_counts"][algorithm] == 3
    wanted = {"one_time_keys": {bob.user_id: {bob.device_id: algorithm}}}
    claimed: dict[str, Any] = {}
    for _ in range(3):
        claimed |= (await alice.post("/keys/claim", wanted))["one_time_keys"][bob.user_id][bob.device_id]
    assert claimed == {f"{algorithm}:FIRST": before, name: key, f"{algorithm}:LAST": before}


@pytest.mark.parametrize(("name", "changes"), [("A" * 300, {}), ("A", {"key": "k" * 5000})])
async def test_a_key_as_all_clients_make_them_may_not_be_longer(
    bob: Client, name: str, changes: dict[str, Any]
) -> None:
    body = {"one_time_keys": {f"signed_curve25519:{name}": key_of(bob, **changes)}}
    assert (await bob.call("POST", "/keys/upload", body, expect=None)).status in (400, 413)
    assert (await bob.post("/keys/upload"))["one_time_key_counts"] == {ALGORITHM: 0}


async def test_keys_that_an_earlier_release_stored_are_claimed(
    server: Server, alice: Client, bob: Client
) -> None:
    """It kept the JSON of each key."""
    device, asking = CryptoDevice(bob), CryptoDevice(alice)
    await device.upload(one_time=1)
    assert await asking.claim(device) is not None
    keys = {f"K{n}": device.one_time_key(n + 1) for n in range(3)}
    *before, (key_id, key) = ((key_id, json.dumps(key)) for key_id, key in keys.items())
    stored = {"user_id": bob.user_id, "device_id": bob.device_id, "algorithm": ALGORITHM, "uploaded": 1}
    record = msgspec.convert({**stored, "key_id": key_id, "key": key, "before": before}, OneTimeKey)
    await server.stop()
    store = await opened_store(server.config)
    await store.collection(ONE_TIME_KEYS).put(record)
    await store.close()
    await server.start()
    claimed = [await asking.claim(device) for _ in range(4)]
    assert claimed == [*((f"{ALGORITHM}:{key_id}", key) for key_id, key in keys.items()), None]


async def test_hundred_parallel_claims_get_no_key_twice(alice: Client, bob: Client) -> None:
    """HARDENING 33."""
    device, asking = CryptoDevice(bob), CryptoDevice(alice)
    await device.upload(one_time=80)
    claimed = await asyncio.gather(*(asking.claim(device) for _ in range(100)))
    names = [key[0] for key in claimed if key is not None]
    assert len(names) == len(set(names)) == 80
    assert (await bob.sync())["device_one_time_keys_count"] == {ALGORITHM: 0}


async def test_one_claim_for_many_devices_gets_one_key_of_each(alice: Client, bob: Client) -> None:
    devices = [CryptoDevice(bob, 1), CryptoDevice(await log_in(bob), 2)]
    for device in devices:
        await device.upload(one_time=2)
    wanted = {bob.user_id: {d.device_id: ALGORITHM for d in devices} | {"NOSUCH": ALGORITHM}}
    wanted["@nobody:localhost"] = {"D": ALGORITHM}
    wanted["@x:elsewhere.example"] = {"D": ALGORITHM}
    answer = await alice.post("/keys/claim", {"one_time_keys": wanted})
    assert list(answer["failures"]) == ["elsewhere.example"]
    assert list(answer["one_time_keys"]) == [bob.user_id]
    assert sorted(answer["one_time_keys"][bob.user_id]) == sorted(d.device_id for d in devices)
    for device in devices:
        assert len(answer["one_time_keys"][bob.user_id][device.device_id]) == 1


async def test_parallel_uploads_of_one_device_all_count(bob: Client) -> None:
    device = CryptoDevice(bob)
    bodies = [{"one_time_keys": device.one_time_keys(5)} for _ in range(8)]
    await asyncio.gather(*(bob.post("/keys/upload", body) for body in bodies))
    assert (await bob.sync())["device_one_time_keys_count"] == {ALGORITHM: 40}


async def test_a_device_may_have_so_many_keys_and_no_more(bob: Client) -> None:
    """HARDENING 14: growth by small writes."""
    device = CryptoDevice(bob)
    keys = device.one_time_keys(MAX_ONE_TIME_KEYS + 1)
    full = dict(list(keys.items())[:MAX_ONE_TIME_KEYS])
    assert (await bob.call("POST", "/keys/upload", {"one_time_keys": keys}, expect=400)).errcode
    assert (await bob.post("/keys/upload"))["one_time_key_counts"] == {ALGORITHM: 0}
    await bob.post("/keys/upload", {"one_time_keys": full})
    one_more = {"one_time_keys": device.one_time_keys(1)}
    assert (await bob.call("POST", "/keys/upload", one_more, expect=400)).errcode == "M_TOO_LARGE"
    await CryptoDevice(bob).claim(device)
    await bob.post("/keys/upload", one_more)


@pytest.mark.parametrize(
    "keys",
    [
        {"signed_curve25519": {"key": "x", "signatures": {}}},
        {":A": "x"},
        {"signed_curve25519:": {"key": "x", "signatures": {}}},
        {"signed_curve25519:A": "x"},
        {"signed_curve25519:A": {"key": 1, "signatures": {}}},
        {"signed_curve25519:A": {"key": "x"}},
        {"curve25519:A": 1},
        {"curve25519:A": None},
        {"curve25519:A": 1.5},
        {"curve25519:A": "x" * 5000},
        {"curve25519:" + "A" * 300: "x"},
    ],
)
@pytest.mark.parametrize("field", ["one_time_keys", "fallback_keys"])
async def test_malformed_one_time_keys_are_refused(bob: Client, field: str, keys: dict[str, Any]) -> None:
    good = {"curve25519:GOOD": "x"}
    reply = await bob.call("POST", "/keys/upload", {field: {**good, **keys}}, expect=None)
    assert reply.status in (400, 413)
    body = await bob.sync()
    assert body["device_one_time_keys_count"] == {ALGORITHM: 0}
    assert body["device_unused_fallback_key_types"] == []


# Fallback keys


async def test_a_fallback_key_serves_when_the_others_have_run_out(alice: Client, bob: Client) -> None:
    device, asking = CryptoDevice(bob), CryptoDevice(alice)
    fallback = device.fallback_key(1)
    await device.upload(one_time=1, fallback_keys=fallback)
    assert (await bob.sync())["device_unused_fallback_key_types"] == [ALGORITHM]
    first = await asking.claim(device)
    assert first is not None and first[0] not in fallback
    assert (await bob.sync())["device_unused_fallback_key_types"] == [ALGORITHM]
    for _ in range(2):
        claimed = await asking.claim(device)
        assert claimed is not None and dict([claimed]) == fallback
        assert (await bob.sync())["device_unused_fallback_key_types"] == []


async def test_only_a_new_fallback_key_counts_as_unused(alice: Client, bob: Client) -> None:
    device, asking = CryptoDevice(bob), CryptoDevice(alice)
    await device.upload(fallback_keys=device.fallback_key(1))
    await asking.claim(device)
    await device.upload(fallback_keys=device.fallback_key(1))
    assert (await bob.sync())["device_unused_fallback_key_types"] == []
    await device.upload(fallback_keys=device.fallback_key(2))
    assert (await bob.sync())["device_unused_fallback_key_types"] == [ALGORITHM]
    claimed = await asking.claim(device)
    assert claimed is not None and dict([claimed]) == device.fallback_key(2)


# Restarts


async def test_counts_and_used_marks_are_right_after_a_restart(
    server: Server, alice: Client, bob: Client
) -> None:
    device, asking = CryptoDevice(bob), CryptoDevice(alice)
    await device.upload(one_time=3, fallback_keys=device.fallback_key(1))
    first = await asking.claim(device)
    await restart(server, alice, bob)
    body = await bob.sync()
    assert body["device_one_time_keys_count"] == {ALGORITHM: 2}
    assert body["device_unused_fallback_key_types"] == [ALGORITHM]
    rest = [await asking.claim(device) for _ in range(4)]
    names = [key[0] for key in (first, *rest) if key is not None]
    assert len(set(names[:3])) == 3
    assert set(names[3:]) == set(device.fallback_key(1))
    await restart(server, alice, bob)
    assert (await bob.sync())["device_unused_fallback_key_types"] == []


async def test_a_restored_store_hands_out_no_one_time_key_again(
    server: Server, alice: Client, bob: Client
) -> None:
    """HARDENING 33: the copy holds keys that were claimed since; a restore gives the store a new epoch."""
    device, asking = CryptoDevice(bob), CryptoDevice(alice)
    await device.upload(one_time=3, fallback_keys=device.fallback_key(1))
    await server.stop()
    await begin_epoch(server.config)
    await server.start()
    alice._base = bob._base = server.base
    body = await bob.sync(full=True)
    assert body["device_one_time_keys_count"] == {ALGORITHM: 0}
    assert body["device_unused_fallback_key_types"] == [ALGORITHM]
    claimed = await asking.claim(device)
    assert claimed is not None and dict([claimed]) == device.fallback_key(1)
    await restart(server, alice, bob)
    await device.upload(one_time=2)
    await restart(server, alice, bob)
    assert (await bob.sync(full=True))["device_one_time_keys_count"] == {ALGORITHM: 2}


@pytest.mark.parametrize(("stored", "begun"), [(False, False), (True, False), (False, True)])
async def test_an_upload_that_fails_and_is_repeated_never_makes_a_key_twice(
    tmp_path: Path, stored: bool, begun: bool
) -> None:
    """HARDENING 33: crash between write and answer.

    `stored` when only the store's answer was lost, `begun` when only the first of its records was stored.
    """
    stores: list[FaultyStore] = []

    def faulty(store: Store) -> Store:
        failure = OutcomeUnknown if stored or begun else StoreUnavailable
        stores.append(FaultyStore(store, error=failure("told to fail"), stored=stored, begun=begun))
        return stores[0]

    async with serving(tmp_path, faulty) as base, aiohttp.ClientSession() as http:
        asking = CryptoDevice(await Client(base, http).register("alice"))
        bob = await Client(base, http).register("bob")
        device = CryptoDevice(bob)
        await device.upload(one_time=1)
        seen: set[str] = set()
        failed, step = True, 0
        while failed:
            step += 1
            assert step < 10, "an upload takes more steps than it was given"
            body = {"one_time_keys": device.one_time_keys(3)}
            stores[0].arm(step)
            failed = (await bob.call("POST", "/keys/upload", body, expect=None)).status != 200
            stores[0].arm(None)
            early = await asking.claim(device)
            answer = await bob.post("/keys/upload", body)
            left = answer["one_time_key_counts"].get(ALGORITHM, 0)
            late = [await asking.claim(device) for _ in range(left + 1)]
            assert late[-1] is None
            names = [key[0] for key in (early, *late) if key is not None]
            assert len(names) == left + (early is not None)
            assert len(set(names)) == len(names) and not seen & set(names)
            seen.update(names)
        assert step > 1
