"""The table of room versions against the specification's account of what came when."""

from collections.abc import Callable

import pytest

from homeserver.protocol.room_versions import (
    DEFAULT_ROOM_VERSION,
    ROOM_VERSIONS,
    EventIdFormat,
    RoomVersion,
    StateResolution,
)

FIRST_VERSION_WITH: dict[str, tuple[int, Callable[[RoomVersion], bool]]] = {
    "state resolution v2": (2, lambda v: v.state_resolution is not StateResolution.V1),
    "event ids that are hashes": (3, lambda v: v.event_ids_are_hashes),
    "redactions that auth rules do not look at": (3, lambda v: not v.redaction_auth),
    "URL-safe event ids": (4, lambda v: v.event_id_format is EventIdFormat.URL_SAFE_HASH),
    "key validity": (5, lambda v: v.enforce_key_validity),
    "strict canonical JSON": (6, lambda v: v.strict_canonical_json),
    "depth within 53 bits": (6, lambda v: v.max_depth == 2**53 - 1),
    "no rule for aliases": (6, lambda v: not v.special_aliases_auth),
    "power checks on notifications": (6, lambda v: v.notifications_power_check),
    "knocking": (7, lambda v: v.knocking),
    "restricted joins": (8, lambda v: v.restricted_joins),
    "knock_restricted": (10, lambda v: v.knock_restricted),
    "integer power levels": (10, lambda v: v.integer_power_levels),
    "type and state key of 255 bytes": (11, lambda v: v.field_limits_in_bytes),
    "creator is the sender": (11, lambda v: v.implicit_room_creator),
    "redacts in the content": (11, lambda v: v.redacts_in_content),
    "state resolution v2.1": (12, lambda v: v.state_resolution is StateResolution.V2_1),
    "room id is the create event's": (12, lambda v: v.room_id_is_create_hash),
    "privileged creators": (12, lambda v: v.privileged_creators),
}


@pytest.mark.parametrize("feature", FIRST_VERSION_WITH)
def test_each_feature_starts_at_its_version_and_stays(feature: str) -> None:
    first, has = FIRST_VERSION_WITH[feature]
    assert [int(v.identifier) for v in ROOM_VERSIONS.values() if has(v)] == list(range(first, 13))


def test_all_twelve_versions_are_there_and_twelve_is_the_default() -> None:
    assert list(ROOM_VERSIONS) == [str(n) for n in range(1, 13)]
    assert all(key == version.identifier for key, version in ROOM_VERSIONS.items())
    assert DEFAULT_ROOM_VERSION == "12"
