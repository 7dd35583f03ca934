"""Power levels: how they are read, and what may be changed by whom (HARDENING 2)."""

from typing import Any

import pytest
from hypothesis import given, settings

from homeserver.protocol.power_levels import CREATOR_LEVEL, NAMED_LEVELS, PowerLevels, parse_level
from homeserver.protocol.room_versions import ROOM_VERSIONS

from .auth_room import ADMIN, CREATOR, MOD, OTHER, USER, VERSIONS, AuthRoom, since, until
from .json_values import any_values

every_version = pytest.mark.parametrize("version", VERSIONS)


def view(version: str, content: Any, **create: Any) -> PowerLevels:
    return PowerLevels(ROOM_VERSIONS[version], content, AuthRoom(version).set_create(**create))


# --- reading ----------------------------------------------------------------------------------------


@every_version
def test_without_a_power_levels_event_only_the_creator_has_power(version: str) -> None:
    levels = view(version, None)
    assert levels.user_level(CREATOR) == (CREATOR_LEVEL if version in since(12) else 100)
    assert levels.user_level(USER) == 0
    assert levels.event_level("m.room.topic", True) == 50
    assert levels.event_level("m.room.message", False) == 0
    assert (levels.invite, levels.kick, levels.ban, levels.redact) == (0, 50, 50, 50)


@every_version
def test_with_an_empty_power_levels_event_the_creator_has_none_until_version_11(version: str) -> None:
    assert view(version, {}).user_level(CREATOR) == (CREATOR_LEVEL if version in since(12) else 0)


@every_version
def test_levels_are_those_of_the_content(version: str) -> None:
    levels = view(
        version,
        {
            "users": {USER: 7}, "users_default": 3, "events": {"m.room.topic": 9}, "state_default": 8,
            "events_default": 2, "ban": 11, "kick": 12, "redact": 13, "invite": 14,
        },
    )  # fmt: skip
    assert (levels.user_level(USER), levels.user_level(OTHER)) == (7, 3)
    assert levels.event_level("m.room.topic", True) == levels.event_level("m.room.topic", False) == 9
    assert (levels.event_level("x", True), levels.event_level("x", False)) == (8, 2)
    assert (levels.ban, levels.kick, levels.redact, levels.invite) == (11, 12, 13, 14)


@every_version
def test_a_user_who_is_listed_at_zero_has_zero_and_not_the_default(version: str) -> None:
    levels = view(version, {"users": {USER: 0}, "users_default": 3, "events": {"x": 0}, "state_default": 8})
    assert (levels.user_level(USER), levels.event_level("x", True)) == (0, 0)


@every_version
def test_creators_stand_above_every_level_since_version_12(version: str) -> None:
    levels = view(version, {"users": {USER: 2**53 - 1}}, additional_creators=[OTHER])
    privileged = version in since(12)
    assert (levels.user_level(CREATOR) > levels.user_level(USER)) == privileged
    assert (levels.user_level(OTHER) == levels.user_level(CREATOR)) == (
        privileged or levels.user_level(OTHER) == 0
    )
    assert (levels.user_level(OTHER) == CREATOR_LEVEL) == privileged


SPELLED = [("50", 50), (" 50 ", 50), ("+50", 50), ("-50", -50), ("00050", 50), (" +007\n", 7)]
NOT_SPELLED = ["", " ", "5.0", "5e1", "0x5", "5 0", "+-5", "--5", "1_0", "٥", "five", "+", "5" * 5000]


@pytest.mark.parametrize("version", until(9))
def test_strings_that_spell_integers_are_levels_until_version_9(version: str) -> None:
    room_version = ROOM_VERSIONS[version]
    for spelled, level in SPELLED:
        assert parse_level(room_version, spelled) == level
        assert view(version, {"users": {USER: spelled}, "ban": spelled}).user_level(USER) == level
    for spelled in NOT_SPELLED:
        assert parse_level(room_version, spelled) is None


@pytest.mark.parametrize("version", until(5))
def test_floats_are_cut_off_at_the_point_in_rooms_that_know_floats(version: str) -> None:
    room_version = ROOM_VERSIONS[version]
    assert [parse_level(room_version, x) for x in (50.57, -50.57, 5.114698e4, 0.9)] == [50, -50, 51146, 0]
    assert parse_level(room_version, float("inf")) is None
    assert parse_level(room_version, float("nan")) is None


@pytest.mark.parametrize("version", since(10))
def test_only_integers_are_levels_since_version_10(version: str) -> None:
    room_version = ROOM_VERSIONS[version]
    assert parse_level(room_version, -5) == -5
    no_levels: list[Any] = ["50", 50.0, True, None, [], {}]
    for value in no_levels:
        assert parse_level(room_version, value) is None
        assert view(version, {"users": {USER: value}, "users_default": 4}).user_level(USER) == 4


@every_version
@settings(max_examples=25)
@given(content=any_values)
def test_any_content_reads_as_some_levels(version: str, content: Any) -> None:
    levels = view(version, content if isinstance(content, dict) else {"users": content, "events": content})
    assert isinstance(levels.user_level(USER), int)
    assert isinstance(levels.event_level("", True), int)


# --- changing ---------------------------------------------------------------------------------------


def change(room: AuthRoom, sender: Any = MOD, users: Any = None, **content: Any) -> tuple[Any, ...]:
    """The arguments of a power levels event that keeps the room's users but for `users`."""
    kept = (
        dict(room.state["m.room.power_levels", ""].content["users"]) if isinstance(users, dict | None) else {}
    )
    return (
        "m.room.power_levels",
        sender,
        {"users": {**kept, **users} if users else users or kept, **content},
        "",
    )


def moderated_room(version: str, **levels: Any) -> AuthRoom:
    """Where the moderator may send power levels."""
    room = AuthRoom(version)
    room.member(MOD, "join")
    room.levels(events={"m.room.power_levels": 0, **levels.pop("events", {})}, **levels)
    return room


@every_version
@pytest.mark.parametrize(
    "users",
    ["x", [], 5, None, {"nobody": 5}, {"@a": 5}, {"@a:b c": 5}, {USER: "x"}, {USER: None}, {USER: []},
     {USER: True}, {USER: "1.5"}],
)  # fmt: skip
def test_users_must_be_integers_by_user_id(version: str, users: Any) -> None:
    room = moderated_room(version)
    room.refuses("power levels: users", "m.room.power_levels", ADMIN, {"users": users}, "")
    del room.state["m.room.power_levels", ""]
    room.refuses("power levels: users", "m.room.power_levels", CREATOR, {"users": users}, "")


@every_version
def test_stringy_levels_are_allowed_until_version_9(version: str) -> None:
    for content in (
        {"users": {USER: "5"}},
        {"ban": "5"},
        {"events": {"x": "5"}},
        {"notifications": {"room": " +5 "}},
    ):
        room = moderated_room(version)
        event = change(
            room, ADMIN, content.get("users"), **{k: v for k, v in content.items() if k != "users"}
        )
        if version in until(9):
            room.allows(*event)
        else:
            room.refuses("power levels: .* integer", *event)


@pytest.mark.parametrize("version", since(10))
@pytest.mark.parametrize("value", ["5", 5.0, None, True, [], {}, "x"])
@pytest.mark.parametrize("name", NAMED_LEVELS)
def test_named_levels_must_be_integers_since_version_10(version: str, name: str, value: Any) -> None:
    room = moderated_room(version)
    room.refuses(f"power levels: {name} is not an integer", *change(room, ADMIN, **{name: value}))
    del room.state["m.room.power_levels", ""]
    room.refuses(f"power levels: {name}", "m.room.power_levels", CREATOR, {name: value}, "")


@pytest.mark.parametrize("version", since(10))
@pytest.mark.parametrize("table", ["events", "notifications"])
@pytest.mark.parametrize("value", ["x", [], None, {"x": "5"}, {"x": None}, {"x": False}, {"x": {}}])
def test_tables_must_hold_integers_since_version_10(version: str, table: str, value: Any) -> None:
    room = moderated_room(version)
    room.refuses(f"power levels: {table}", *change(room, ADMIN, **{table: value}))
    del room.state["m.room.power_levels", ""]
    room.refuses(f"power levels: {table}", "m.room.power_levels", CREATOR, {table: value}, "")


@pytest.mark.parametrize("version", until(9))
@pytest.mark.parametrize("name", NAMED_LEVELS)
def test_what_is_no_level_is_not_brought_in_until_version_9_either(version: str, name: str) -> None:
    no_levels: list[Any] = ["x", None, [], True]
    for value in no_levels:
        room = moderated_room(version)
        room.refuses(f"power levels: {name}", *change(room, ADMIN, **{name: value}))


@pytest.mark.parametrize("version", until(9))
@pytest.mark.parametrize("value", ["x", [], None, {"x": "five"}, {"x": None}, {"x": {}}])
def test_a_later_table_must_hold_levels_until_version_9_too(version: str, value: Any) -> None:
    room = moderated_room(version)
    room.refuses("power levels: events", *change(room, ADMIN, events=value))
    if version in since(6):
        room.refuses("power levels: notifications", *change(room, ADMIN, notifications=value))


@pytest.mark.parametrize("version", until(9))
@pytest.mark.parametrize("value", ["x", [], None])
def test_a_table_that_was_none_can_be_made_one_until_version_9(version: str, value: Any) -> None:
    room = AuthRoom(version)
    room.levels(events=value, notifications=value)
    room.allows(*change(room, ADMIN, events={"x": 50}, notifications={"room": 50}))


@every_version
def test_the_first_power_levels_event_may_say_anything(version: str) -> None:
    room = AuthRoom(version)
    del room.state["m.room.power_levels", ""]
    room.allows("m.room.power_levels", CREATOR, {"users": {USER: 2**53 - 1}, "ban": 2**53 - 1}, "")
    room.allows("m.room.power_levels", CREATOR, {}, "")


@every_version
def test_a_creator_is_not_listed_among_the_users_since_version_12(version: str) -> None:
    room = moderated_room(version)
    room.set_create(additional_creators=[OTHER])
    for creator in (CREATOR, OTHER):
        event = change(room, ADMIN, {creator: 100})
        if version in since(12):
            room.refuses("power levels: users names a creator", *event)
        else:
            room.allows(*event)


@every_version
@pytest.mark.parametrize("name", NAMED_LEVELS)
def test_named_levels_change_only_below_the_senders_power(version: str, name: str) -> None:
    room = moderated_room(version)
    room.allows(*change(room, events={"m.room.power_levels": 0}, **{name: 50}))
    room.refuses(f"power levels: {name} would be 51", *change(room, **{name: 51}))
    room = moderated_room(version, **({"events": {"m.room.power_levels": 0}} | {name: 51}))
    kept: dict[str, Any] = {"events": {"m.room.power_levels": 0}}
    room.allows(*change(room, **kept, **{name: 51}))
    for after in ({name: 50}, {name: 52}, {}):
        room.refuses(f"power levels: {name} is 51", *change(room, **kept, **after))


@every_version
def test_event_levels_change_only_below_the_senders_power(version: str) -> None:
    room = moderated_room(version, events={"low": 50, "high": 51})
    now: Any = {"m.room.power_levels": 0, "low": 50, "high": 51}
    room.allows(*change(room, events=now))
    room.allows(*change(room, events=now | {"low": 10, "new": 50}))
    room.allows(*change(room, events={"m.room.power_levels": 0, "high": 51}))
    room.refuses("events low would be 51", *change(room, events=now | {"low": 51}))
    room.refuses("events new would be 51", *change(room, events=now | {"new": 51}))
    room.refuses("events high is 51", *change(room, events=now | {"high": 50}))
    room.refuses("events high is 51", *change(room, events={"m.room.power_levels": 0, "low": 50}))
    room.refuses("events high is 51", *change(room))


@every_version
def test_notification_levels_are_guarded_since_version_6(version: str) -> None:
    room = moderated_room(version, notifications={"room": 51})
    kept: dict[str, Any] = {"events": {"m.room.power_levels": 0}}
    room.allows(*change(room, **kept, notifications={"room": 51, "new": 50}))
    for after in ({"room": 50}, {}, {"room": 51, "new": 51}):
        event = change(room, **kept, notifications=after)
        if version in since(6):
            room.refuses("power levels: notifications", *event)
        else:
            room.allows(*event)


@every_version
def test_users_are_changed_only_by_those_above_them(version: str) -> None:
    room = moderated_room(version, users={USER: 49, OTHER: 50})
    kept: dict[str, Any] = {"events": {"m.room.power_levels": 0}}
    room.allows(*change(room, users={USER: 50}, **kept))
    room.allows(*change(room, users={USER: 0, "@new:a": 50}, **kept))
    room.refuses(f"users {USER} would be 51", *change(room, users={USER: 51}, **kept))
    room.refuses("users @new:a would be 51", *change(room, users={"@new:a": 51}, **kept))
    room.refuses(f"{OTHER} has as much power", *change(room, users={OTHER: 49}, **kept))
    room.refuses(f"users {ADMIN} is 100", *change(room, users={ADMIN: 0}, **kept))
    content = {"users": {ADMIN: 100, MOD: 50, CREATOR: 100, USER: 49}, **kept}
    if version in since(12):
        del content["users"][CREATOR]
    room.refuses(f"{OTHER} has as much power", "m.room.power_levels", MOD, content, "")


@every_version
def test_users_may_lower_themselves_but_not_raise(version: str) -> None:
    room = moderated_room(version)
    kept: dict[str, Any] = {"events": {"m.room.power_levels": 0}}
    room.allows(*change(room, users={MOD: 0}, **kept))
    room.refuses(f"users {MOD} would be 51", *change(room, users={MOD: 51}, **kept))


@pytest.mark.parametrize("version", until(9))
def test_spelling_a_level_otherwise_is_no_change(version: str) -> None:
    room = moderated_room(version, ban=100)
    room.allows(*change(room, users={ADMIN: "100"}, events={"m.room.power_levels": " 0"}, ban="0100"))


@pytest.mark.parametrize("version", since(12))
def test_creators_change_every_level_and_each_other_cannot_be_kicked(version: str) -> None:
    room = moderated_room(version, ban=2**53 - 1, users={USER: 2**53 - 1})
    room.set_create(additional_creators=[OTHER])
    room.member(OTHER, "join")
    room.member(USER, "join")
    room.allows("m.room.power_levels", CREATOR, {"users": {}}, "")
    room.allows_member(OTHER, USER, "ban")
    room.refuses_member("ban: the user's power", OTHER, CREATOR, "ban")
    room.refuses_member("kick: the user's power", CREATOR, OTHER, "leave")
    room.refuses_member("ban: the user's power", USER, CREATOR, "ban")
