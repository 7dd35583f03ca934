"""What an event keeps when it is redacted, room version by room version."""

import pytest

from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.power_levels import PowerLevels
from homeserver.protocol.redaction import redact, redactor_suffices
from homeserver.protocol.room_versions import ROOM_VERSIONS

from .auth_room import CREATOR, MOD, OTHER, USER, AuthRoom

ALL = [str(n) for n in range(1, 13)]

ALWAYS = {
    "event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures", "depth",
    "prev_events", "auth_events", "origin_server_ts",
}  # fmt: skip
UNTIL_10 = {"prev_state", "origin", "membership"}

# Event type → (content key, first and last room version that keeps it).
KEPT_CONTENT: dict[str, list[tuple[str, int, int]]] = {
    "m.room.member": [("membership", 1, 12), ("join_authorised_via_users_server", 9, 12)],
    "m.room.create": [("creator", 1, 12), ("room_version", 11, 12), ("m.federate", 11, 12), ("x", 11, 12)],
    "m.room.join_rules": [("join_rule", 1, 12), ("allow", 8, 12)],
    "m.room.power_levels": [
        ("ban", 1, 12),
        ("events", 1, 12),
        ("events_default", 1, 12),
        ("kick", 1, 12),
        ("redact", 1, 12),
        ("state_default", 1, 12),
        ("users", 1, 12),
        ("users_default", 1, 12),
        ("invite", 11, 12),
    ],
    "m.room.aliases": [("aliases", 1, 5)],
    "m.room.history_visibility": [("history_visibility", 1, 12)],
    "m.room.redaction": [("redacts", 11, 12)],
    "m.room.message": [],
    "m.room.name": [],
    "org.example.custom": [],
}
ALL_CONTENT_KEYS = {key for kept in KEPT_CONTENT.values() for key, _, _ in kept} | {
    "body", "name", "displayname", "notifications", "reason",
}  # fmt: skip


def full_event(event_type: str) -> JsonObject:
    keys = ALWAYS | UNTIL_10 | {"unsigned", "redacts", "age", "org.example.extra"}
    return {key: f"value of {key}" for key in keys} | {
        "type": event_type,
        "content": {key: f"value of {key}" for key in ALL_CONTENT_KEYS},
    }


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("event_type", KEPT_CONTENT)
def test_redaction_keeps_exactly_the_listed_keys(version: str, event_type: str) -> None:
    event = full_event(event_type)
    redacted = redact(ROOM_VERSIONS[version], event)
    assert set(redacted) == (ALWAYS | UNTIL_10 if int(version) <= 10 else ALWAYS)
    kept = {key for key, first, last in KEPT_CONTENT[event_type] if first <= int(version) <= last}
    if event_type == "m.room.create" and int(version) >= 11:
        kept = ALL_CONTENT_KEYS
    assert redacted["content"] == {key: event["content"][key] for key in kept}
    assert all(redacted[key] == event[key] for key in set(redacted) - {"content"})


@pytest.mark.parametrize("version", ALL)
def test_redaction_keeps_only_the_signed_part_of_a_third_party_invite(version: str) -> None:
    signed = {"mxid": "@a:b", "token": "t", "signatures": {}}
    event = full_event("m.room.member")
    event["content"]["third_party_invite"] = {"display_name": "secret", "signed": signed}
    redacted = redact(ROOM_VERSIONS[version], event)
    if int(version) >= 11:
        assert redacted["content"]["third_party_invite"] == {"signed": signed}
    else:
        assert "third_party_invite" not in redacted["content"]


@pytest.mark.parametrize("value", ["text", None, 5, ["signed"]])
def test_redaction_drops_a_third_party_invite_that_is_no_object(value: object) -> None:
    event = full_event("m.room.member")
    event["content"]["third_party_invite"] = value
    assert "third_party_invite" not in redact(ROOM_VERSIONS["12"], event)["content"]


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("event_type", KEPT_CONTENT)
def test_redacting_twice_changes_nothing_and_the_event_itself_is_left_alone(
    version: str, event_type: str
) -> None:
    event = full_event(event_type)
    once = redact(ROOM_VERSIONS[version], event)
    assert redact(ROOM_VERSIONS[version], once) == once
    assert event == full_event(event_type)


@pytest.mark.parametrize(
    "broken", [{}, {"type": []}, {"type": "m.room.member", "content": []}, {"content": "x"}]
)
def test_redaction_of_what_is_no_event_leaves_no_content(broken: JsonObject) -> None:
    for version in ROOM_VERSIONS.values():
        assert redact(version, broken)["content"] == {}


# --- whether a redaction takes effect ---------------------------------------------------------------


def takes_effect(version: str, redactor: str, author: str, **levels: int) -> bool:
    room = AuthRoom(version)
    power = PowerLevels(room.version, room.levels(**levels).content, room.set_create())
    return redactor_suffices(room.version, redactor, author, power)


@pytest.mark.parametrize("version", ALL)
def test_a_redaction_takes_effect_by_power_or_for_events_of_the_same_server(version: str) -> None:
    assert takes_effect(version, MOD, OTHER)
    assert takes_effect(version, USER, USER)
    assert takes_effect(version, USER, MOD)
    assert takes_effect(version, CREATOR, OTHER, redact=100)
    # Before version 3 the authorisation rules refuse it in the first place.
    assert takes_effect(version, USER, OTHER) == (int(version) < 3)
    assert takes_effect(version, MOD, OTHER, redact=51) == (int(version) < 3)


@pytest.mark.parametrize("version", ALL)
def test_a_redacted_create_event_still_founds_its_room(version: str) -> None:
    room = AuthRoom(version)
    room.state.clear()
    create = room.set_create(name="to be removed")
    pruned = redact(room.version, create.pdu)
    assert ("name" in pruned["content"]) == (int(version) >= 11)
    founding = room.event("m.room.create", CREATOR, pruned["content"], "", prev_events=())
    room.check(founding)
