"""Cross-signing keys and signatures (spec: client-server "Cross-signing")."""

from typing import Any

import pytest

from homeserver.e2ee.identities import Identities, Identity
from tests.client_api.conftest import Client, Server
from tests.client_api.crypto_device import (
    CrossSigner,
    CryptoDevice,
    challenged,
    key_from,
    log_in,
    only_signature,
    password_proof,
    public,
    restart,
    signed,
)


async def test_cross_signing_keys_are_shown_to_all_but_the_user_signing_key(
    alice: Client, bob: Client
) -> None:
    signer = CrossSigner(bob.user_id)
    body = signer.upload()
    await bob.post("/keys/device_signing/upload", body)
    own = await CryptoDevice(bob).query(bob.user_id)
    assert own["master_keys"][bob.user_id] == body["master_key"]
    assert own["self_signing_keys"][bob.user_id] == body["self_signing_key"]
    assert own["user_signing_keys"][bob.user_id] == body["user_signing_key"]
    others = await CryptoDevice(alice).query(bob.user_id, alice.user_id)
    assert others["master_keys"] == own["master_keys"]
    assert others["self_signing_keys"] == own["self_signing_keys"]
    assert others["user_signing_keys"] == {}


async def test_the_first_keys_and_the_same_again_need_no_password(bob: Client) -> None:
    body = CrossSigner(bob.user_id).upload()
    for _ in range(2):
        await bob.post("/keys/device_signing/upload", body)
    # Parts of it are no new keys either, and take nothing away.
    for part in ("self_signing_key", "master_key"):
        await bob.post("/keys/device_signing/upload", {part: body[part]})
    shown = await CryptoDevice(bob).query(bob.user_id)
    assert {kind: shown[f"{kind}s"].get(bob.user_id) for kind in body} == body


async def test_other_keys_need_the_password_and_replace_all(bob: Client) -> None:
    await bob.post("/keys/device_signing/upload", CrossSigner(bob.user_id, 1).upload())
    new = CrossSigner(bob.user_id, 2).upload()
    for body in (new, {"self_signing_key": new["self_signing_key"]}):
        challenge = await challenged(bob, body)
        assert {"stages": ["m.login.password"]} in challenge["flows"]
    shown = await CryptoDevice(bob).query(bob.user_id)
    assert shown["master_keys"][bob.user_id] != new["master_key"]
    challenge = await challenged(bob, {"master_key": new["master_key"]})
    auth = password_proof(bob, challenge["session"])
    await bob.post("/keys/device_signing/upload", {"master_key": new["master_key"], "auth": auth})
    shown = await CryptoDevice(bob).query(bob.user_id)
    assert shown["master_keys"][bob.user_id] == new["master_key"]
    # The others were signed by the old master key.
    assert (shown["self_signing_keys"], shown["user_signing_keys"]) == ({}, {})


async def test_one_more_key_under_the_same_master_key_needs_the_password(bob: Client) -> None:
    body = CrossSigner(bob.user_id).upload()
    await bob.post("/keys/device_signing/upload", {"master_key": body["master_key"]})
    await challenged(bob, body)


async def test_keys_need_a_master_key_that_signed_them(bob: Client) -> None:
    mine, other = CrossSigner(bob.user_id, 1), CrossSigner(bob.user_id, 2)
    own = mine.upload()
    reply = await bob.call(
        "POST", "/keys/device_signing/upload", {"self_signing_key": own["self_signing_key"]}, expect=400
    )
    assert reply.errcode == "M_MISSING_PARAM"
    assert (
        await bob.call("POST", "/keys/device_signing/upload", {}, expect=400)
    ).errcode == "M_MISSING_PARAM"
    for wrong in (
        {"master_key": own["master_key"], "self_signing_key": other.upload()["self_signing_key"]},
        {
            "master_key": own["master_key"],
            "user_signing_key": {**own["user_signing_key"], "signatures": {}},
        },
    ):
        reply = await bob.call("POST", "/keys/device_signing/upload", wrong, expect=400)
        assert reply.errcode == "M_INVALID_SIGNATURE"
    assert (await CryptoDevice(bob).query(bob.user_id))["master_keys"] == {}


async def test_device_is_not_said_to_be_signed_by_a_key_that_did_not(bob: Client) -> None:
    signer, device = CrossSigner(bob.user_id), CryptoDevice(bob)
    await bob.post("/keys/device_signing/upload", signer.upload())
    by = f"ed25519:{public(signer.self_signing)}"
    forged = signed(device.device_keys(), bob.user_id, by, CrossSigner(bob.user_id, 2).self_signing)
    reply = await bob.call("POST", "/keys/upload", {"device_keys": forged}, expect=400)
    assert reply.errcode == "M_INVALID_SIGNATURE"
    right = signed(device.device_keys(), bob.user_id, by, signer.self_signing)
    await bob.post("/keys/upload", {"device_keys": right})
    shown = (await device.query(bob.user_id))["device_keys"][bob.user_id][bob.device_id]
    assert set(shown["signatures"][bob.user_id]) == {by, device.key_id}


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "@somebody:localhost"},
        {"usage": ["self_signing"]},
        {"usage": "master"},
        {"usage": [1, "master"]},
        {"keys": {}},
        {"keys": []},
        {"keys": {"ed25519:x": "x"}},
        {"keys": {"ed25519:x": public(key_from(1))}},
        {"keys": {"ed25519:x": "y", "ed25519:z": "z"}},
        {"signatures": []},
        {"x": 1.5},
    ],
)
async def test_malformed_cross_signing_keys_are_refused(bob: Client, change: dict[str, Any]) -> None:
    key = {**CrossSigner(bob.user_id).master_key(), **change}
    await bob.call("POST", "/keys/device_signing/upload", {"master_key": key}, expect=400)
    assert (await CryptoDevice(bob).query(bob.user_id))["master_keys"] == {}


async def test_a_key_that_is_a_device_id_is_refused_and_the_other_way_round(bob: Client) -> None:
    signer = CrossSigner(bob.user_id)
    await log_in(bob, device_id=public(signer.master))
    await bob.call("POST", "/keys/device_signing/upload", signer.upload(), expect=403)
    other = CrossSigner(bob.user_id, 2)
    await bob.post("/keys/device_signing/upload", other.upload())
    user = {"type": "m.id.user", "user": bob.user_id}
    login = {"type": "m.login.password", "identifier": user, "password": "correct horse"}
    for key in (other.master, other.self_signing, other.user_signing):
        await bob.stranger().call("POST", "/login", {**login, "device_id": public(key)}, expect=403)


async def test_the_device_signature_on_a_master_key_is_checked_and_kept(alice: Client, bob: Client) -> None:
    device, signer = CryptoDevice(bob), CrossSigner(bob.user_id)
    await device.upload()
    good = {**signer.upload(), "master_key": device.sign(signer.master_key())}
    bad = {**good, "master_key": CryptoDevice(bob, 9).sign(signer.master_key())}
    reply = await bob.call("POST", "/keys/device_signing/upload", bad, expect=400)
    assert reply.errcode == "M_INVALID_SIGNATURE"
    await bob.post("/keys/device_signing/upload", good)
    shown = (await CryptoDevice(alice).query(bob.user_id))["master_keys"][bob.user_id]
    assert shown == good["master_key"]


# Signatures


async def crossed(client: Client, number: int = 1) -> tuple[CryptoDevice, CrossSigner]:
    """A device with keys, and cross-signing keys."""
    device, signer = CryptoDevice(client, number), CrossSigner(client.user_id, number)
    await device.upload()
    await client.post("/keys/device_signing/upload", signer.upload())
    return device, signer


async def test_a_device_signed_by_its_owner_shows_both_signatures_to_all(
    server: Server, alice: Client, bob: Client
) -> None:
    device, signer = await crossed(bob)
    signed = signer.sign_device(device.device_keys())
    answer = await bob.post("/keys/signatures/upload", {bob.user_id: {bob.device_id: signed}})
    assert answer == {"failures": {}}
    expected = {**device.device_keys()["signatures"][bob.user_id], **signed["signatures"][bob.user_id]}
    for _ in range(2):
        shown = (await CryptoDevice(alice).query(bob.user_id))["device_keys"][bob.user_id][bob.device_id]
        assert shown["signatures"] == {bob.user_id: expected}
        await restart(server, alice, bob)
    # Uploading the same keys again does not lose it.
    await device.upload()
    shown = (await CryptoDevice(alice).query(bob.user_id))["device_keys"][bob.user_id][bob.device_id]
    assert shown["signatures"] == {bob.user_id: expected}


async def test_new_keys_of_a_device_are_not_signed(bob: Client) -> None:
    device, signer = await crossed(bob)
    signed = signer.sign_device(device.device_keys())
    await bob.post("/keys/signatures/upload", {bob.user_id: {bob.device_id: signed}})
    new = CryptoDevice(bob, 2)
    await new.upload()
    shown = (await new.query(bob.user_id))["device_keys"][bob.user_id][bob.device_id]
    assert shown["signatures"] == new.device_keys()["signatures"]


async def test_device_keys_may_be_uploaded_with_the_signature_of_the_self_signing_key(bob: Client) -> None:
    device, signer = await crossed(bob)
    phone = CryptoDevice(await log_in(bob), 3)
    signed = signer.sign_device(phone.device_keys())
    both = {**phone.device_keys()["signatures"][bob.user_id], **signed["signatures"][bob.user_id]}
    keys = {**phone.device_keys(), "signatures": {bob.user_id: both}}
    await phone.client.post("/keys/upload", {"device_keys": keys})
    shown = (await device.query(bob.user_id))["device_keys"][bob.user_id][phone.device_id]
    assert shown["signatures"] == {bob.user_id: both}


async def test_only_the_signer_sees_a_signature_on_anothers_master_key(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    _, alices = await crossed(alice, 1)
    _, bobs = await crossed(bob, 2)
    signed = alices.sign_user(bobs.master_key())
    upload = {bob.user_id: {public(bobs.master): signed}}
    assert await alice.post("/keys/signatures/upload", upload) == {"failures": {}}
    await restart(server, alice, bob, carol)
    for viewer, signatures in ((alice, signed["signatures"]), (bob, None), (carol, None)):
        shown = (await CryptoDevice(viewer).query(bob.user_id))["master_keys"][bob.user_id]
        assert shown.get("signatures") == signatures


async def test_a_signature_on_a_master_key_that_was_replaced_is_shown_no_more(
    alice: Client, bob: Client
) -> None:
    _, alices = await crossed(alice, 1)
    _, bobs = await crossed(bob, 2)
    upload = {bob.user_id: {public(bobs.master): alices.sign_user(bobs.master_key())}}
    await alice.post("/keys/signatures/upload", upload)
    new = CrossSigner(bob.user_id, 3)
    session = (await challenged(bob, new.upload()))["session"]
    await bob.post("/keys/device_signing/upload", {**new.upload(), "auth": password_proof(bob, session)})
    shown = await CryptoDevice(alice).query(bob.user_id)
    assert shown["master_keys"][bob.user_id] == new.master_key()
    failures = (await alice.post("/keys/signatures/upload", upload))["failures"]
    assert failures[bob.user_id][public(bobs.master)]["errcode"] == "M_NOT_FOUND"


async def test_the_signers_other_devices_are_told_to_look_again(alice: Client, bob: Client) -> None:
    _, alices = await crossed(alice, 1)
    _, bobs = await crossed(bob, 2)
    phone = await log_in(alice)
    await phone.sync()
    await bob.sync()
    upload = {bob.user_id: {public(bobs.master): alices.sign_user(bobs.master_key())}}
    await alice.post("/keys/signatures/upload", upload)
    assert (await phone.sync())["device_lists"] == {"changed": [bob.user_id], "left": []}
    assert "device_lists" not in await phone.sync()
    assert "device_lists" not in await bob.sync()


async def test_a_devices_signature_on_its_owners_master_key_is_shown_to_all(
    alice: Client, bob: Client
) -> None:
    device, signer = await crossed(bob)
    signed = only_signature(signer.master_key(), bob.user_id, device.key_id, device.key)
    await bob.post("/keys/signatures/upload", {bob.user_id: {public(signer.master): signed}})
    shown = (await CryptoDevice(alice).query(bob.user_id))["master_keys"][bob.user_id]
    assert shown["signatures"] == signed["signatures"]


async def test_each_wrong_signature_fails_alone(alice: Client, bob: Client) -> None:
    device, signer = await crossed(bob, 1)
    _, alices = await crossed(alice, 2)
    stranger = CrossSigner(bob.user_id, 9)
    good = signer.sign_device(device.device_keys())
    changed = signer.sign_device({**device.device_keys(), "algorithms": ["x"]})
    upload = {
        bob.user_id: {
            bob.device_id: good,
            "NOSUCH": good,
            public(signer.master): signer.sign_device(signer.master_key()),
        },
        alice.user_id: {
            public(alices.master): stranger.sign_user(alices.master_key()),
            alice.device_id: good,
        },
        "@nobody:localhost": {"x": good},
        "@x:elsewhere.example": {"x": good},
    }
    failures = (await bob.post("/keys/signatures/upload", upload))["failures"]
    errcodes = {user: {key: error["errcode"] for key, error in of.items()} for user, of in failures.items()}
    assert errcodes == {
        bob.user_id: {"NOSUCH": "M_NOT_FOUND", public(signer.master): "M_INVALID_SIGNATURE"},
        alice.user_id: {public(alices.master): "M_INVALID_SIGNATURE", alice.device_id: "M_NOT_FOUND"},
        "@nobody:localhost": {"x": "M_NOT_FOUND"},
        "@x:elsewhere.example": {"x": "M_NOT_FOUND"},
    }
    shown = (await device.query(bob.user_id))["device_keys"][bob.user_id][bob.device_id]
    assert len(shown["signatures"][bob.user_id]) == 2
    for wrong, errcode in (
        (changed, "M_INVALID_PARAM"),
        (stranger.sign_device(device.device_keys()), "M_INVALID_SIGNATURE"),
        ({**good, "signatures": {}}, "M_INVALID_SIGNATURE"),
        ({**good, "signatures": {bob.user_id: {"x": 1}}}, "M_INVALID_SIGNATURE"),
        ({}, "M_INVALID_PARAM"),
    ):
        answer = await bob.post("/keys/signatures/upload", {bob.user_id: {bob.device_id: wrong}})
        assert answer["failures"][bob.user_id][bob.device_id]["errcode"] == errcode
    after = (await device.query(bob.user_id))["device_keys"][bob.user_id][bob.device_id]
    assert after == shown
    altered = signer.sign_user({**alices.master_key(), "usage": ["master", "self_signing"]})
    answer = await bob.post("/keys/signatures/upload", {alice.user_id: {public(alices.master): altered}})
    assert answer["failures"][alice.user_id][public(alices.master)]["errcode"] == "M_INVALID_PARAM"


async def test_who_has_no_keys_to_sign_with_signs_nothing(alice: Client, bob: Client) -> None:
    _, alices = await crossed(alice, 2)
    device, signer = CryptoDevice(bob), CrossSigner(bob.user_id)
    await device.upload()
    upload = {
        bob.user_id: {bob.device_id: signer.sign_device(device.device_keys())},
        alice.user_id: {public(alices.master): signer.sign_user(alices.master_key())},
    }
    failures = (await bob.post("/keys/signatures/upload", upload))["failures"]
    errcodes = {user: {key: error["errcode"] for key, error in of.items()} for user, of in failures.items()}
    assert errcodes == {
        bob.user_id: {bob.device_id: "M_INVALID_SIGNATURE"},
        alice.user_id: {public(alices.master): "M_INVALID_SIGNATURE"},
    }


async def test_hardening_14_users_of_whom_nothing_is_signed_cost_nothing(
    alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    get = Identities.get

    async def counted(identities: Identities, user_id: str) -> Identity:
        looked_up.append(user_id)
        return await get(identities, user_id)

    monkeypatch.setattr(Identities, "get", counted)
    crowd: dict[str, Any] = {f"@user{number}:localhost": {} for number in range(2_000)}
    assert await alice.post("/keys/signatures/upload", crowd) == {"failures": {}}
    assert set(looked_up) <= {alice.user_id}
