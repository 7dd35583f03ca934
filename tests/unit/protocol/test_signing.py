"""Hashes and signatures: the specification's vectors, the reference library, and forgeries."""

import base64
import hashlib
from typing import Any

import canonicaljson
import pytest
import signedjson.key
import signedjson.sign
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.protocol import signing
from homeserver.protocol.events import build_event
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.redaction import redact
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.protocol.signing import InvalidSignature, SigningKey, VerifyKey

from .json_values import canonical_values, nested, text

SEED = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
KEY = SigningKey.from_seed("1", signing.decode_base64(SEED))
OTHER_KEY = SigningKey.from_seed("2", bytes(32))
V1, V10, V12 = (ROOM_VERSIONS[v] for v in ("1", "10", "12"))
ALL = list(ROOM_VERSIONS.values())


# --- JSON -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "signature"),
    [
        ({}, "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
        (
            {"one": 1, "two": "Two"},
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ],
)
def test_specification_vectors_of_signed_json(obj: JsonObject, signature: str) -> None:
    signed = signing.sign_json(obj, "domain", KEY)
    assert signed == {**obj, "signatures": {"domain": {"ed25519:1": signature}}}
    signing.verify_json_signature(signed, "domain", "ed25519:1", KEY.verify_key_base64)


json_objects = st.dictionaries(
    text.filter(lambda key: key not in ("signatures", "unsigned")),
    canonical_values | nested(st.floats(allow_nan=False, allow_infinity=False)),
    max_size=5,
)


@given(json_objects)
def test_signatures_are_those_of_the_reference_library(obj: JsonObject) -> None:
    reference_key = signedjson.key.decode_signing_key_base64("ed25519", "1", SEED)
    expected = signedjson.sign.sign_json(dict(obj), "domain", reference_key)
    signed = signing.sign_json(obj, "domain", KEY)
    assert signed == expected
    signing.verify_json_signature(expected, "domain", "ed25519:1", KEY.verify_key_base64)


def test_signing_adds_to_the_signatures_that_are_there_and_leaves_unsigned_out() -> None:
    once = signing.sign_json({"a": 1, "unsigned": {"age": 1}}, "domain", KEY)
    twice = signing.sign_json({**once, "unsigned": {"age": 2}}, "domain", OTHER_KEY)
    assert set(twice["signatures"]["domain"]) == {"ed25519:1", "ed25519:2"}
    for key in (KEY, OTHER_KEY):
        signing.verify_json_signature(twice, "domain", key.key_id, key.verify_key_base64)


def altered(**changes: Any) -> JsonObject:
    signed = signing.sign_json({"a": 1}, "domain", KEY)
    return {**signed, **changes}


@pytest.mark.parametrize(
    ("obj", "entity", "key_id", "key"),
    [
        (altered(a=2), "domain", "ed25519:1", KEY),
        (altered(b=1), "domain", "ed25519:1", KEY),
        (altered(), "domain", "ed25519:1", OTHER_KEY),
        (altered(), "other", "ed25519:1", KEY),
        (altered(), "domain", "ed25519:2", KEY),
        (altered(signatures={}), "domain", "ed25519:1", KEY),
        (altered(signatures=[]), "domain", "ed25519:1", KEY),
        (altered(signatures={"domain": []}), "domain", "ed25519:1", KEY),
        (altered(signatures={"domain": {"ed25519:1": 5}}), "domain", "ed25519:1", KEY),
        (altered(signatures={"domain": {"ed25519:1": "!"}}), "domain", "ed25519:1", KEY),
        (altered(signatures={"domain": {"ed25519:1": ""}}), "domain", "ed25519:1", KEY),
        (altered(signatures={"domain": {"ed25519:1": "A" * 86}}), "domain", "ed25519:1", KEY),
        (altered(signatures={"domain": {"ed25519:1": "ä"}}), "domain", "ed25519:1", KEY),
    ],
)
def test_a_wrong_or_missing_signature_is_refused(
    obj: JsonObject, entity: str, key_id: str, key: SigningKey
) -> None:
    with pytest.raises(InvalidSignature):
        signing.verify_json_signature(obj, entity, key_id, key.verify_key_base64)


@pytest.mark.parametrize("value", ["\ud800", float("nan")])
def test_what_cannot_be_encoded_verifies_as_nothing(value: Any) -> None:
    with pytest.raises(InvalidSignature):
        signing.verify_json_signature(altered(b=value), "domain", "ed25519:1", KEY.verify_key_base64)
    _, pdu = signed_event(V12)
    with pytest.raises(InvalidSignature):
        signing.verify_event_signatures(V12, {**pdu, "origin_server_ts": value}, known("a"))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "AAAA",
        "!",
        signing.encode_base64(bytes(31)),
        signing.encode_base64(bytes(33)),
        # The right key with something behind it is not the right key.
        signing.encode_base64(signing.decode_base64(KEY.verify_key_base64) + b"x"),
        # Points of small order: with these a signature can be made that fits every message.
        signing.encode_base64(bytes(32)),
        signing.encode_base64(b"\x01" + bytes(31)),
        signing.encode_base64(b"\xec" + b"\xff" * 30 + b"\x7f"),
    ],
)
def test_malformed_and_weak_keys_verify_nothing(key: str) -> None:
    weak_signature = signing.encode_base64(b"\x01" + bytes(63))
    obj = altered(signatures={"domain": {"ed25519:1": weak_signature}})
    for candidate in (obj, altered()):
        with pytest.raises(InvalidSignature):
            signing.verify_json_signature(candidate, "domain", "ed25519:1", key)


def test_base64_is_read_with_and_without_padding_in_both_alphabets() -> None:
    raw = bytes(range(256))
    for encoded in (base64.b64encode(raw), base64.urlsafe_b64encode(raw)):
        assert signing.decode_base64(encoded.decode()) == raw
        assert signing.decode_base64(encoded.decode().rstrip("=")) == raw
    assert [signing.encode_base64(b"foobar"[:n]) for n in range(7)] == [
        "", "Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmE", "Zm9vYmFy",
    ]  # fmt: skip


def test_a_key_is_remade_from_its_seed_and_never_printed() -> None:
    key = SigningKey.generate("abc")
    assert SigningKey.from_seed("abc", key.seed) == key
    assert key.key_id == "ed25519:abc"
    assert SigningKey.generate("abc").verify_key_base64 != key.verify_key_base64
    assert repr(key) == "SigningKey('ed25519:abc')"
    assert signing.encode_base64(key.seed) not in f"{key}"


# --- events -----------------------------------------------------------------------------------------

MINIMAL: JsonObject = {
    "room_id": "!x:domain",
    "sender": "@a:domain",
    "origin": "domain",
    "origin_server_ts": 1000000,
    "signatures": {},
    "hashes": {},
    "type": "X",
    "content": {},
    "prev_events": [],
    "auth_events": [],
    "depth": 3,
    "unsigned": {"age_ts": 1000000},
}
REDACTABLE: JsonObject = {
    "content": {"body": "Here is the message content"},
    "event_id": "$0:domain",
    "origin": "domain",
    "origin_server_ts": 1000000,
    "type": "m.room.message",
    "room_id": "!r:domain",
    "sender": "@u:domain",
    "signatures": {},
    "unsigned": {"age_ts": 1000000},
}


@pytest.mark.parametrize(
    ("pdu", "content_hash", "signature"),
    [
        (
            MINIMAL,
            "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
            "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
        ),
        (
            REDACTABLE,
            "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
            "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
        ),
    ],
)
def test_specification_vectors_of_signed_events(pdu: JsonObject, content_hash: str, signature: str) -> None:
    hashed = {**pdu, "hashes": {"sha256": signing.content_hash(V1, pdu)}}
    assert hashed["hashes"]["sha256"] == content_hash
    signed = signing.sign_event(V1, hashed, "domain", KEY)
    assert signed == {**hashed, "signatures": {"domain": {"ed25519:1": signature}}}
    assert signing.check_content_hash(V1, signed)


def by_the_letter(version: RoomVersion, pdu: JsonObject) -> tuple[str, str]:
    """Content hash and reference hash, written down from the specification with its reference encoder."""
    unhashed = {k: v for k, v in pdu.items() if k not in ("hashes", "signatures", "unsigned")}
    content = hashlib.sha256(canonicaljson.encode_canonical_json(unhashed)).digest()
    stripped = {k: v for k, v in redact(version, pdu).items() if k not in ("signatures", "unsigned")}
    reference = hashlib.sha256(canonicaljson.encode_canonical_json(stripped)).digest()
    encode = base64.b64encode if version.identifier in ("1", "2", "3") else base64.urlsafe_b64encode
    return base64.b64encode(content).decode().rstrip("="), encode(reference).decode().rstrip("=")


@pytest.mark.parametrize("version", ALL, ids=lambda v: v.identifier)
@settings(max_examples=15)
@given(content=st.dictionaries(text, canonical_values, max_size=3))
def test_hashes_and_ids_are_those_of_the_specification(version: RoomVersion, content: JsonObject) -> None:
    pdu = {**REDACTABLE, "content": content, "hashes": {"sha256": "x"}}
    content_hash, reference_hash = by_the_letter(version, pdu)
    assert signing.content_hash(version, pdu) == content_hash
    assert signing.reference_hash(version, pdu) == reference_hash
    expected_id = "$0:domain" if version.identifier in ("1", "2") else "$" + reference_hash
    assert signing.event_id_of(version, pdu) == expected_id


@pytest.mark.parametrize("version", [V1, ROOM_VERSIONS["5"]], ids=lambda v: v.identifier)
@given(content=st.dictionaries(text, nested(st.floats(allow_nan=False, allow_infinity=False)), max_size=3))
def test_old_rooms_hash_floats_as_the_reference_encoder_writes_them(
    version: RoomVersion, content: JsonObject
) -> None:
    pdu = {**REDACTABLE, "content": {**content, "big": 2**70, "float": 1e16}}
    assert signing.content_hash(version, pdu) == by_the_letter(version, pdu)[0]


def test_a_changed_content_no_longer_fits_its_hash_but_the_signature_stays() -> None:
    _, pdu = signed_event(V12)
    changed = {**pdu, "content": {"body": "other"}}
    assert signing.check_content_hash(V12, pdu)
    assert not signing.check_content_hash(V12, changed)
    signing.verify_event_signatures(V12, changed, {"a": {"ed25519:1": VerifyKey(KEY.verify_key_base64)}})


@pytest.mark.parametrize(
    "hashes", [None, [], {}, {"sha256": 5}, {"sha256": "!"}, {"sha256": ""}, {"md5": "x"}]
)
def test_a_missing_or_malformed_content_hash_does_not_fit(hashes: Any) -> None:
    _, pdu = signed_event(V12)
    assert not signing.check_content_hash(V12, {**pdu, "hashes": hashes})


# --- who must sign ----------------------------------------------------------------------------------


def signed_event(
    version: RoomVersion,
    *,
    type: str = "m.room.message",
    sender: str = "@u:a",
    state_key: str | None = None,
    content: JsonObject | None = None,
    ts: int = 1000,
) -> tuple[str, JsonObject]:
    event, _ = build_event(
        version,
        room_id="!" + "r" * 43 if version.room_id_is_create_hash else "!r:a",
        type=type,
        sender=sender,
        state_key=state_key,
        content={"body": "b"} if content is None else content,
        prev_events=[],
        auth_events=[],
        depth=1,
        origin_server_ts=ts,
        server_name=sender.partition(":")[2],
        key=KEY,
    )
    return event.event_id, event.pdu


def known(*servers: str, key: SigningKey = KEY, until: int | None = None) -> signing.ServerKeys:
    return {server: {key.key_id: VerifyKey(key.verify_key_base64, until)} for server in servers}


@pytest.mark.parametrize("version", ALL, ids=lambda v: v.identifier)
def test_the_senders_server_must_have_signed(version: RoomVersion) -> None:
    _, pdu = signed_event(version)
    assert signing.required_signers(version, pdu) == {"a"}
    signing.verify_event_signatures(version, pdu, known("a"))
    for bad in (
        {**pdu, "signatures": {}},
        {**pdu, "signatures": {"b": pdu["signatures"]["a"]}},
        {**pdu, "origin_server_ts": 1001},
        {**pdu, "sender": "@v:a"},
    ):
        with pytest.raises(InvalidSignature):
            signing.verify_event_signatures(version, bad, known("a", "b"))
    with pytest.raises(InvalidSignature, match="known"):
        signing.verify_event_signatures(version, pdu, known("b"))
    with pytest.raises(InvalidSignature):
        signing.verify_event_signatures(
            version, pdu, {"a": {KEY.key_id: VerifyKey(OTHER_KEY.verify_key_base64)}}
        )


def test_signatures_by_unknown_keys_are_passed_over_and_wrong_ones_by_known_keys_are_not() -> None:
    _, pdu = signed_event(V12)
    signatures = pdu["signatures"]["a"]
    extra = {**pdu, "signatures": {"a": {**signatures, "ed25519:policy_server": "AAAA", "rot13:x": "x"}}}
    signing.verify_event_signatures(V12, extra, known("a"))
    keys = {"a": {**known("a")["a"], **known("a", key=OTHER_KEY)["a"]}}
    both = {**pdu, "signatures": {"a": {**signatures, OTHER_KEY.key_id: signatures[KEY.key_id]}}}
    with pytest.raises(InvalidSignature, match="wrong"):
        signing.verify_event_signatures(V12, both, keys)


@pytest.mark.parametrize("version", ALL, ids=lambda v: v.identifier)
def test_a_key_that_expired_before_the_event_counts_only_until_room_version_4(version: RoomVersion) -> None:
    _, pdu = signed_event(version, ts=1000)
    signing.verify_event_signatures(version, pdu, known("a", until=1000))
    if int(version.identifier) < 5:
        signing.verify_event_signatures(version, pdu, known("a", until=999))
    else:
        with pytest.raises(InvalidSignature, match="valid"):
            signing.verify_event_signatures(version, pdu, known("a", until=999))


@pytest.mark.parametrize("version", ["1", "2"])
def test_in_versions_1_and_2_the_server_of_the_event_id_must_have_signed_too(version: str) -> None:
    room_version = ROOM_VERSIONS[version]
    _, pdu = signed_event(room_version)
    pdu = {**pdu, "event_id": "$x:b"}
    assert signing.required_signers(room_version, pdu) == {"a", "b"}
    by_a = signing.sign_event(room_version, {**pdu, "signatures": {}}, "a", KEY)
    with pytest.raises(InvalidSignature):
        signing.verify_event_signatures(room_version, by_a, known("a", "b"))
    by_both = signing.sign_event(room_version, by_a, "b", OTHER_KEY)
    signing.verify_event_signatures(room_version, by_both, {**known("a"), **known("b", key=OTHER_KEY)})


@pytest.mark.parametrize("version", ALL, ids=lambda v: v.identifier)
def test_a_restricted_join_must_be_signed_by_the_server_that_let_the_user_in(version: RoomVersion) -> None:
    content = {"membership": "join", "join_authorised_via_users_server": "@admin:b"}
    _, pdu = signed_event(version, type="m.room.member", state_key="@u:a", content=content)
    if int(version.identifier) < 8:
        signing.verify_event_signatures(version, pdu, known("a"))
        return
    with pytest.raises(InvalidSignature):
        signing.verify_event_signatures(version, pdu, known("a", "b"))
    co_signed = signing.sign_event(version, pdu, "b", OTHER_KEY)
    signing.verify_event_signatures(version, co_signed, {**known("a"), **known("b", key=OTHER_KEY)})
    signing.verify_event_signatures(version, signed_event(version, content=content)[1], known("a"))


@pytest.mark.parametrize("user", [5, None, "nobody", ["@a:b"], {}])
def test_a_restricted_join_that_names_no_user_is_refused(user: Any) -> None:
    content = {"membership": "join", "join_authorised_via_users_server": user}
    _, pdu = signed_event(V12, type="m.room.member", state_key="@u:a", content=content)
    with pytest.raises(InvalidSignature):
        signing.verify_event_signatures(V12, pdu, known("a"))


def test_an_exchanged_third_party_invite_need_not_be_signed_by_the_senders_server() -> None:
    content = {"membership": "invite", "third_party_invite": {"signed": {}}}
    _, pdu = signed_event(V12, type="m.room.member", state_key="@x:c", content=content)
    assert signing.required_signers(V12, pdu) == set()
    for other in (
        {**pdu, "content": {**content, "membership": "join"}},
        {**pdu, "content": {"membership": "invite"}},
        {**pdu, "type": "m.room.message"},
    ):
        assert signing.required_signers(V12, other) == {"a"}


@given(
    st.dictionaries(
        st.sampled_from(["sender", "type", "content", "event_id", "signatures"]), canonical_values
    )
)
def test_any_object_has_its_signatures_verified_or_refused(pdu: JsonObject) -> None:
    for version in (V1, V10, V12):
        try:
            signing.verify_event_signatures(version, pdu, known("a"))
        except InvalidSignature:
            continue
