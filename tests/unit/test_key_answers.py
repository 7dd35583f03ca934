"""Answers of other servers about keys: whatever they say, what is read of them is keys (HARDENING 14)."""

import copy
import random
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from homeserver.e2ee.identities import Copy, Identity
from homeserver.e2ee.key_answers import MAX_DEVICES, claimed_of, copies_of_query, copy_of_list
from homeserver.e2ee.key_servers import NoAnswer
from tests.client_api.crypto_device import ALGORITHM, CrossSigner, CryptoDevice
from tests.client_api.hostile_values import VALUES, WORDS

USER = "@visitor:other.example.org"
ROUNDS = 3_000


def device(device_id: str) -> Any:
    owner: Any = SimpleNamespace(user_id=USER, device_id=device_id)
    return CryptoDevice(owner).device_keys()


def answers() -> dict[str, Any]:
    keys = CrossSigner(USER).upload()
    key = CryptoDevice(SimpleNamespace(user_id=USER, device_id="PHONE")).one_time_key(1)  # type: ignore[arg-type]
    return {
        "devices": {
            "user_id": USER,
            "stream_id": 3,
            "devices": [{"device_id": "PHONE", "keys": device("PHONE"), "device_display_name": "x"}],
            "master_key": keys["master_key"],
            "self_signing_key": keys["self_signing_key"],
        },
        "query": {
            "device_keys": {USER: {"PHONE": {**device("PHONE"), "unsigned": {"device_display_name": "x"}}}},
            "master_keys": {USER: keys["master_key"]},
            "self_signing_keys": {USER: keys["self_signing_key"]},
        },
        "claim": {"one_time_keys": {USER: {"PHONE": {f"{ALGORITHM}:K1": key}}}},
    }


def read(what: str, answer: Any) -> Copy | None:
    """What is shown of an answer in the end; None when it is no answer."""
    try:
        if what == "devices":
            found = copy_of_list(USER, answer)
        elif what == "query":
            found = copies_of_query([USER], answer)[USER]
        else:
            claimed = claimed_of({USER: {"PHONE": ALGORITHM}}, answer)
            assert all(len(keys) == 1 for of_user in claimed.values() for keys in of_user.values())
            return None
    except NoAnswer:
        return None
    identity = Identity.of_copy(USER, found)
    shown = orjson.loads(identity.shown_devices())
    assert all((keys["user_id"], keys["device_id"]) == (USER, id) for id, keys in shown.items())
    for usage in ("master", "self_signing"):
        key = identity.shown_key(usage)
        assert key is None or orjson.loads(key)["user_id"] == USER
    return found


def spoil(rng: random.Random, answer: Any) -> Any:
    result = copy.deepcopy(answer)
    holder: Any = result
    while True:
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        inner = holder[key]
        if rng.random() < 0.3 or not isinstance(inner, (dict, list)) or not inner:
            break
        holder = inner
    holder[key] = rng.choice((*VALUES, *WORDS))
    return result


@pytest.mark.parametrize("what", ["devices", "query"])
def test_a_good_answer_is_read_whole(what: str) -> None:
    found = read(what, answers()[what])
    assert found is not None
    assert found.devices == {"PHONE": device("PHONE")}
    assert found.names == {"PHONE": "x"}
    assert set(found.keys) == {"master", "self_signing"}


@pytest.mark.parametrize("what", ["devices", "query", "claim"])
def test_whatever_is_answered_only_keys_are_taken(what: str) -> None:
    rng = random.Random(7)
    answer = answers()[what]
    for _ in range(ROUNDS):
        read(what, spoil(rng, answer))


def test_more_devices_than_anybody_has_are_not_taken() -> None:
    keys = device("PHONE")
    names = [f"D{number}" for number in range(MAX_DEVICES + 10)]
    many = {name: {**keys, "device_id": name, "keys": {f"curve25519:{name}": "A" * 43}} for name in names}
    assert len(copies_of_query([USER], {"device_keys": {USER: many}})[USER].devices) == MAX_DEVICES
