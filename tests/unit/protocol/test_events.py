"""The event format: what is an event, how large it may be, and what `build_event` makes."""

import copy
from typing import Any

import canonicaljson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.protocol import signing
from homeserver.protocol.canonical_json import InvalidJson
from homeserver.protocol.events import (
    MAX_EVENT_BYTES,
    Event,
    EventTooLarge,
    InvalidEvent,
    build_event,
    load_event,
    parse_pdu,
)
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.protocol.signing import SigningKey, VerifyKey

from .json_values import any_values

KEY = SigningKey.from_seed("1", bytes(32))
KEYS = {"a": {KEY.key_id: VerifyKey(KEY.verify_key_base64)}}
ALL = list(ROOM_VERSIONS.values())
STRICT = [v for v in ALL if v.strict_canonical_json]
LENIENT = [v for v in ALL if not v.strict_canonical_json]
PAIRS = [v for v in ALL if not v.event_ids_are_hashes]
HASHED = [v for v in ALL if v.event_ids_are_hashes]
V12 = ROOM_VERSIONS["12"]


def by_id(version: RoomVersion) -> str:
    return f"v{version.identifier}"


def event_id(version: RoomVersion, name: str) -> str:
    return f"${name.ljust(43, '-')}" if version.event_ids_are_hashes else f"${name}:a"


def room_id(version: RoomVersion) -> str:
    return "!" + "r" * 43 if version.room_id_is_create_hash else "!r:a"


def built(version: RoomVersion, **changes: Any) -> tuple[Event, bytes]:
    arguments: dict[str, Any] = {
        "room_id": room_id(version),
        "type": "m.room.message",
        "sender": "@u:a",
        "state_key": None,
        "content": {"body": "hello", "msgtype": "m.text"},
        "prev_events": [event_id(version, "p1"), event_id(version, "p2")],
        "auth_events": [event_id(version, "a1")],
        "depth": 7,
        "origin_server_ts": 1_700_000_000_000,
        "server_name": "a",
        "key": KEY,
    }
    if not version.event_ids_are_hashes:
        arguments["reference_hashes"] = {event_id(version, n): f"hash of {n}" for n in ("p1", "p2", "a1")}
    return build_event(version, **(arguments | changes))


# --- building ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL, ids=by_id)
def test_a_built_event_is_what_its_bytes_say_and_passes_all_checks(version: RoomVersion) -> None:
    event, encoded = built(version)
    assert encoded == canonicaljson.encode_canonical_json(event.pdu)
    assert signing.check_content_hash(version, event.pdu)
    signing.verify_event_signatures(version, event.pdu, KEYS)
    parsed = parse_pdu(version, event.pdu)
    for field in Event.__slots__:
        assert getattr(parsed, field) == getattr(event, field), field
    assert event.event_id == signing.event_id_of(version, event.pdu)
    assert event.prev_events == (event_id(version, "p1"), event_id(version, "p2"))
    assert event.auth_events == (event_id(version, "a1"),)
    assert (event.depth, event.sender, event.room_id) == (7, "@u:a", room_id(version))
    assert not event.is_state


@pytest.mark.parametrize("version", ALL, ids=by_id)
def test_building_the_same_twice_gives_the_same_event(version: RoomVersion) -> None:
    assert built(version)[1] == built(version)[1]
    assert built(version)[0].event_id != built(version, depth=8)[0].event_id


@pytest.mark.parametrize("version", PAIRS, ids=by_id)
def test_old_events_carry_their_id_and_the_hashes_of_what_they_refer_to(version: RoomVersion) -> None:
    event, _ = built(version)
    assert event.pdu["event_id"] == event.event_id
    assert event.event_id.endswith(":a")
    assert event.pdu["prev_events"] == [
        ["$p1:a", {"sha256": "hash of p1"}],
        ["$p2:a", {"sha256": "hash of p2"}],
    ]
    assert event.pdu["auth_events"] == [["$a1:a", {"sha256": "hash of a1"}]]


@pytest.mark.parametrize("version", HASHED, ids=by_id)
def test_newer_events_carry_no_id_and_refer_by_id_alone(version: RoomVersion) -> None:
    event, _ = built(version)
    assert "event_id" not in event.pdu
    assert event.pdu["prev_events"] == list(event.prev_events)
    assert len(event.event_id) == 44


@pytest.mark.parametrize("version", ALL, ids=by_id)
def test_a_redaction_names_its_target_where_the_version_has_it(version: RoomVersion) -> None:
    target = event_id(version, "p1")
    event, _ = built(version, type="m.room.redaction", content={"reason": "r"}, redacts=target)
    assert event.redacts == target
    if version.redacts_in_content:
        assert event.content == {"reason": "r", "redacts": target}
        assert "redacts" not in event.pdu
    else:
        assert event.pdu["redacts"] == target
        assert event.content == {"reason": "r"}


@pytest.mark.parametrize("version", ALL, ids=by_id)
def test_a_state_event_has_a_state_tuple_and_a_message_has_none(version: RoomVersion) -> None:
    event, _ = built(version, type="m.room.topic", state_key="")
    assert event.is_state
    assert event.state_tuple == ("m.room.topic", "")
    with pytest.raises(ValueError, match="not a state event"):
        _ = built(version)[0].state_tuple


def test_the_create_event_of_a_version_12_room_has_no_room_id_and_names_the_room() -> None:
    event, _ = built(
        V12, room_id=None, type="m.room.create", state_key="", content={"room_version": "12"}, prev_events=[],
        auth_events=[],
    )  # fmt: skip
    assert "room_id" not in event.pdu
    assert event.room_id == "!" + event.event_id[1:]
    assert parse_pdu(V12, event.pdu).room_id == event.room_id


@pytest.mark.parametrize("version", STRICT, ids=by_id)
@pytest.mark.parametrize("value", [1.5, 2**53, "\ud800", {1: 2}, b"x"])
def test_content_that_is_not_canonical_json_is_not_built(version: RoomVersion, value: Any) -> None:
    with pytest.raises(InvalidJson):
        built(version, content={"value": value})


@pytest.mark.parametrize("version", LENIENT, ids=by_id)
def test_old_rooms_take_floats_and_large_integers(version: RoomVersion) -> None:
    event, encoded = built(version, content={"float": 1e16, "big": 2**70})
    assert encoded == canonicaljson.encode_canonical_json(event.pdu)
    assert parse_pdu(version, event.pdu).content == event.content
    with pytest.raises(InvalidJson):
        built(version, content={"value": "\ud800"})


# --- sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL, ids=by_id)
def test_the_size_limit_holds_for_the_signed_event_to_the_byte(version: RoomVersion) -> None:
    empty = len(built(version, content={"body": ""})[1])
    event, encoded = built(version, content={"body": "x" * (MAX_EVENT_BYTES - empty)})
    assert len(encoded) == MAX_EVENT_BYTES
    assert parse_pdu(version, event.pdu).event_id == event.event_id
    with pytest.raises(EventTooLarge, match="65537"):
        built(version, content={"body": "x" * (MAX_EVENT_BYTES - empty + 1)})
    too_large = {**event.pdu, "content": {"body": event.content["body"] + "x"}}
    with pytest.raises(EventTooLarge):
        parse_pdu(version, too_large)


@pytest.mark.parametrize("version", ALL, ids=by_id)
@pytest.mark.parametrize("field", ["type", "state_key"])
@pytest.mark.parametrize("unit", ["x", "ä"])
def test_type_and_state_key_are_limited_in_bytes(version: RoomVersion, field: str, unit: str) -> None:
    fits = unit * (255 // len(unit.encode()))
    arguments = {"type": "m.x", "state_key": "", field: fits}
    event, _ = built(version, **arguments)
    parse_pdu(version, event.pdu)
    arguments[field] = fits + unit
    with pytest.raises(EventTooLarge, match=field):
        built(version, **arguments)
    of_another_server = {**event.pdu, field: fits + unit if version.field_limits_in_bytes else unit * 256}
    with pytest.raises(EventTooLarge, match=field):
        parse_pdu(version, of_another_server)


@pytest.mark.parametrize("version", [each for each in ALL if int(each.identifier) <= 10], ids=by_id)
@pytest.mark.parametrize("field", ["type", "state_key"])
def test_servers_that_counted_characters_are_understood_in_versions_that_let_them(
    version: RoomVersion, field: str
) -> None:
    event, _ = built(version, state_key="")
    parse_pdu(version, {**event.pdu, field: "ä" * 255})


@pytest.mark.parametrize("version", ALL, ids=by_id)
def test_sender_and_room_id_are_limited_in_bytes(version: RoomVersion) -> None:
    with pytest.raises(EventTooLarge, match="sender"):
        built(version, sender="@" + "x" * 253 + ":a")
    with pytest.raises(EventTooLarge, match="room_id"):
        built(version, room_id="!" + "x" * 253 + ":a")


@pytest.mark.parametrize("version", ALL, ids=by_id)
@pytest.mark.parametrize(("field", "limit"), [("prev_events", 20), ("auth_events", 10)])
def test_the_number_of_references_is_limited(version: RoomVersion, field: str, limit: int) -> None:
    event, _ = built(version)
    references = event.pdu[field][:1] * limit
    assert len(getattr(parse_pdu(version, {**event.pdu, field: references}), field)) == limit
    with pytest.raises(InvalidEvent, match=field):
        parse_pdu(version, {**event.pdu, field: references + references[:1]})


# --- parsing ----------------------------------------------------------------------------------------

REQUIRED = [
    "type", "sender", "room_id", "content", "origin_server_ts", "depth", "hashes", "signatures",
    "prev_events", "auth_events",
]  # fmt: skip


@pytest.mark.parametrize("version", ALL, ids=by_id)
@pytest.mark.parametrize("field", REQUIRED)
def test_an_event_without_a_required_field_is_refused(version: RoomVersion, field: str) -> None:
    pdu = dict(built(version)[0].pdu)
    del pdu[field]
    with pytest.raises(InvalidEvent, match=field):
        parse_pdu(version, pdu)


@pytest.mark.parametrize("version", ALL, ids=by_id)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", 5),
        ("sender", "u"),
        ("sender", "@u"),
        ("sender", "@u:a b"),
        ("sender", None),
        ("state_key", None),
        ("state_key", 1),
        ("room_id", "r"),
        ("room_id", 5),
        ("content", []),
        ("content", None),
        ("unsigned", []),
        ("origin_server_ts", "1"),
        ("origin_server_ts", True),
        ("origin_server_ts", 2**63),
        ("origin_server_ts", -(2**63) - 1),
        ("depth", -1),
        ("depth", "1"),
        ("depth", None),
        ("depth", True),
        ("depth", 2**63),
        ("hashes", {}),
        ("hashes", {"sha256": 1}),
        ("hashes", []),
        ("signatures", []),
        ("signatures", {"a": "x"}),
        ("signatures", {"a": {"ed25519:1": 5}}),
        ("prev_events", "x"),
        ("prev_events", {}),
        ("prev_events", [5]),
        ("prev_events", ["p"]),
        ("prev_events", [[]]),
        ("prev_events", [["$p:a"]]),
        ("prev_events", [["$p:a", "hash"]]),
        ("prev_events", [[5, {"sha256": "x"}]]),
        ("auth_events", [None]),
        ("auth_events", ["$" + "x" * 255]),
    ],
)
def test_a_field_of_a_wrong_form_is_refused(version: RoomVersion, field: str, value: Any) -> None:
    with pytest.raises(InvalidEvent):
        parse_pdu(version, {**built(version)[0].pdu, field: value})


@pytest.mark.parametrize("version", ALL, ids=by_id)
def test_depth_goes_up_to_the_limit_of_the_version(version: RoomVersion) -> None:
    pdu = built(version)[0].pdu
    limit = 2**53 - 1 if version.strict_canonical_json else 2**63 - 1
    assert parse_pdu(version, {**pdu, "depth": limit}).depth == limit
    assert parse_pdu(version, {**pdu, "depth": 0}).depth == 0
    with pytest.raises(InvalidEvent):
        parse_pdu(version, {**pdu, "depth": limit + 1})


@pytest.mark.parametrize("version", PAIRS, ids=by_id)
@pytest.mark.parametrize("value", [None, 5, "x", "$x", "$x:"])
def test_old_events_need_an_id_with_a_domain(version: RoomVersion, value: Any) -> None:
    with pytest.raises(InvalidEvent):
        parse_pdu(version, {**built(version)[0].pdu, "event_id": value})


@pytest.mark.parametrize("version", HASHED, ids=by_id)
def test_newer_events_are_named_by_their_hash_whatever_they_claim(version: RoomVersion) -> None:
    event = built(version)[0]
    claimed = parse_pdu(version, {**event.pdu, "event_id": "$somebody:else"})
    assert claimed.event_id == "$" + signing.reference_hash(version, claimed.pdu)


@pytest.mark.parametrize("version", ALL, ids=by_id)
def test_room_ids_have_the_form_of_the_version(version: RoomVersion) -> None:
    pdu = built(version)[0].pdu
    with pytest.raises(InvalidEvent):
        parse_pdu(version, {**pdu, "room_id": "!r:a" if version.room_id_is_create_hash else "!" + "r" * 43})


def test_a_version_12_create_event_with_a_room_id_is_refused() -> None:
    event, _ = built(V12, room_id=None, type="m.room.create", state_key="", prev_events=[], auth_events=[])
    with pytest.raises(InvalidEvent, match="room_id"):
        parse_pdu(V12, {**event.pdu, "room_id": event.room_id})


@pytest.mark.parametrize("version", ALL, ids=by_id)
def test_redacts_must_be_a_string_where_the_format_has_it(version: RoomVersion) -> None:
    pdu = {**built(version, type="m.room.redaction")[0].pdu, "redacts": 5}
    if version.redacts_in_content:
        assert parse_pdu(version, pdu).redacts is None
        strange = {**pdu, "content": {"redacts": ["$x"]}}
        assert parse_pdu(version, strange).redacts is None
    else:
        with pytest.raises(InvalidEvent, match="redacts"):
            parse_pdu(version, pdu)


ABUSES: list[Any] = [
    1.5,
    1e400,
    float("nan"),
    float("-inf"),
    2**53,
    -(2**53),
    2**64,
    "\ud800",
    [[{"a": 0.0}]],
]


@pytest.mark.parametrize("version", STRICT, ids=by_id)
@pytest.mark.parametrize("value", ABUSES, ids=repr)
@pytest.mark.parametrize("place", ["content", "top", "unsigned"])
def test_numbers_and_strings_outside_canonical_json_make_an_event_invalid(
    version: RoomVersion, value: Any, place: str
) -> None:
    pdu = copy.deepcopy(built(version)[0].pdu)
    (pdu if place == "top" else pdu.setdefault(place, {}))["abuse"] = value
    with pytest.raises(InvalidEvent):
        parse_pdu(version, pdu)


@pytest.mark.parametrize("version", LENIENT, ids=by_id)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"], ids=repr)
def test_what_cannot_be_json_at_all_is_refused_in_old_rooms_too(version: RoomVersion, value: Any) -> None:
    pdu = {**built(version)[0].pdu, "content": {"abuse": value}}
    with pytest.raises(InvalidEvent):
        parse_pdu(version, pdu)


@pytest.mark.parametrize("version", ALL, ids=by_id)
@pytest.mark.parametrize("depth", [300, 5_000, 30_000])
def test_deeply_nested_content_is_refused(version: RoomVersion, depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    with pytest.raises(InvalidEvent):
        parse_pdu(version, {**built(version)[0].pdu, "content": {"a": value}})
    if version.strict_canonical_json:
        with pytest.raises(InvalidJson):
            built(version, content={"a": value})


@pytest.mark.parametrize("version", ALL, ids=by_id)
def test_unknown_fields_are_kept(version: RoomVersion) -> None:
    pdu = {**built(version)[0].pdu, "org.example.new": [1, {"a": None}], "unsigned": {"age": 1}}
    assert parse_pdu(version, pdu).pdu == pdu


def test_an_accepted_event_is_loaded_whatever_it_looks_like() -> None:
    version = ROOM_VERSIONS["4"]
    pdu = {**built(version)[0].pdu, "depth": -5, "sender": "odd", "prev_events": ["$x"] * 50, "hashes": None}
    event = load_event(version, pdu, "$old")
    assert (event.event_id, event.depth, event.sender, len(event.prev_events)) == ("$old", -5, "odd", 50)


# --- any input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ROOM_VERSIONS[v] for v in ("1", "3", "6", "11", "12")], ids=by_id)
@settings(max_examples=40)
@given(pdu=any_values)
def test_any_json_value_is_an_event_or_an_invalid_one(version: RoomVersion, pdu: Any) -> None:
    with pytest.raises(InvalidEvent):
        parse_pdu(version, pdu)


@pytest.mark.parametrize("version", [ROOM_VERSIONS[v] for v in ("1", "3", "6", "11", "12")], ids=by_id)
@settings(max_examples=80)
@given(data=st.data())
def test_an_event_with_any_field_replaced_is_an_event_or_an_invalid_one(
    version: RoomVersion, data: st.DataObject
) -> None:
    pdu: JsonObject = copy.deepcopy(built(version, type="m.room.member", state_key="@u:a")[0].pdu)
    pdu["event_id"] = "$x:a"
    for field in data.draw(
        st.sets(st.sampled_from([*REQUIRED, "state_key", "event_id", "redacts"]), max_size=3)
    ):
        pdu[field] = data.draw(any_values)
    try:
        event = parse_pdu(version, pdu)
    except InvalidEvent:
        return
    assert isinstance(event, Event)
    assert isinstance(event.type, str)
    assert isinstance(event.content, dict)
    assert len(canonicaljson.encode_canonical_json(event.pdu)) <= MAX_EVENT_BYTES
    assert all(isinstance(reference, str) for reference in event.prev_events + event.auth_events)
