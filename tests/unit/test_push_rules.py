"""A user's push rules as a value: defaults as specified, edits, errors, limits and the stored form."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.protocol.push_rule_edits import (
    MAX_RULES_PER_KIND,
    MAX_SEARCHES,
    add_rule,
    delete_rule,
    set_actions,
    set_enabled,
)
from homeserver.protocol.push_rules import (
    InvalidRule,
    PushRule,
    PushRuleError,
    PushRules,
    RuleKind,
    RuleNotFound,
    TooManyRules,
    UnknownAnchor,
)
from homeserver.protocol.push_ruleset import find_rule, ruleset
from homeserver.protocol.stored_push_rules import parse_stored, stored_content

USER = "@alice:example.com"
SPEC = Path(__file__).parents[3] / "shared" / "spec"
NOTHING = PushRules()
QUIET: dict[str, Any] = {"actions": []}


def ids(rules: PushRules, kind: RuleKind) -> list[str]:
    return [rule["rule_id"] for rule in ruleset(rules, USER)[kind]]


def own_ids(rules: PushRules, kind: RuleKind) -> list[str]:
    return [rule_id for rule_id in ids(rules, kind) if not rule_id.startswith(".")]


def add(rules: PushRules, *rule_ids: str, kind: RuleKind = RuleKind.ROOM, **place: str) -> PushRules:
    for rule_id in rule_ids:
        rules = add_rule(rules, kind, rule_id, QUIET, **place)
    return rules


# --- Defaults


def test_the_default_rules_stand_in_the_order_of_the_specification() -> None:
    assert {kind: ids(NOTHING, kind) for kind in RuleKind} == {
        "override": [
            ".m.rule.master",
            ".m.rule.suppress_notices",
            ".m.rule.invite_for_me",
            ".m.rule.member_event",
            ".m.rule.is_user_mention",
            ".m.rule.is_room_mention",
            ".m.rule.tombstone",
            ".m.rule.reaction",
            ".m.rule.room.server_acl",
            ".m.rule.suppress_edits",
        ],
        "content": [],
        "room": [],
        "sender": [],
        "underride": [
            ".m.rule.call",
            ".m.rule.encrypted_room_one_to_one",
            ".m.rule.room_one_to_one",
            ".m.rule.message",
            ".m.rule.encrypted",
        ],
    }


if SPEC.exists():

    def test_the_default_rules_are_the_json_of_the_specification() -> None:
        text = (SPEC / "text/client-server-api/modules/push.md").read_text()
        override, underride = text.partition("##### Default Override Rules")[2].split(
            "##### Default Underride Rules"
        )

        def definitions(section: str) -> list[Any]:
            blocks = re.findall(r"```json\n(\{\s*\"rule_id\".*?)```", section, re.DOTALL)
            return [json.loads(block.replace("[the user's Matrix ID]", USER)) for block in blocks]

        defaults = ruleset(NOTHING, USER)
        assert defaults["override"] == definitions(override)
        assert defaults["underride"] == definitions(underride)

    def test_rules_are_shown_as_the_specification_describes_them() -> None:
        sys.path.insert(0, str(SPEC / "tools"))
        from validate import Validator

        validator = Validator()
        rules = add_rule(NOTHING, RuleKind.CONTENT, "cake", {"pattern": "cake", "actions": ["notify"]})
        rules = add(add(rules, "!room:hs"), "@bob:hs", kind=RuleKind.SENDER)
        shown = {"global": ruleset(rules, USER)}
        assert not validator.check_response("GET", "/_matrix/client/v3/pushrules/", 200, shown)
        assert not validator.check_event({"type": "m.push_rules", "content": shown})


def test_the_users_own_rules_go_between_master_and_the_other_defaults() -> None:
    rules = add(add(NOTHING, "mine", kind=RuleKind.OVERRIDE), "last", kind=RuleKind.UNDERRIDE)
    assert ids(rules, RuleKind.OVERRIDE)[:3] == [".m.rule.master", "mine", ".m.rule.suppress_notices"]
    assert ids(rules, RuleKind.UNDERRIDE)[:2] == ["last", ".m.rule.call"]


# --- Adding and placing


def test_a_new_rule_is_shown_with_what_its_kind_has() -> None:
    condition = {"kind": "event_match", "key": "content.body", "pattern": "beer"}
    body = {"actions": ["notify"], "conditions": [condition], "pattern": "cake*lie", "junk": 1}
    rules = NOTHING
    for kind in RuleKind:
        rules = add_rule(rules, kind, "x", body)
    shown = {
        kind: next(rule for rule in ruleset(rules, USER)[kind] if rule["rule_id"] == "x") for kind in RuleKind
    }
    plain = {"rule_id": "x", "default": False, "enabled": True, "actions": ["notify"]}
    assert shown == {
        "override": plain | {"conditions": [condition]},
        "content": plain | {"pattern": "cake*lie"},
        "room": plain,
        "sender": plain,
        "underride": plain | {"conditions": [condition]},
    }


def test_a_new_rule_is_the_most_important_of_the_users_own() -> None:
    assert own_ids(add(NOTHING, "a", "b", "c"), RuleKind.ROOM) == ["c", "b", "a"]


def test_before_and_after_place_a_rule_next_to_another() -> None:
    rules = add(NOTHING, "c", "b", "a")
    assert own_ids(add(rules, "x", before="b"), RuleKind.ROOM) == ["a", "x", "b", "c"]
    assert own_ids(add(rules, "x", after="b"), RuleKind.ROOM) == ["a", "b", "x", "c"]
    assert own_ids(add(rules, "x", before="a", after="c"), RuleKind.ROOM) == ["x", "a", "b", "c"]
    assert own_ids(add(rules, "a", after="c"), RuleKind.ROOM) == ["b", "c", "a"]
    assert own_ids(add(rules, "c", before="a"), RuleKind.ROOM) == ["c", "a", "b"]


def test_changing_a_rule_keeps_its_place_and_leaves_it_disabled() -> None:
    rules = set_enabled(add(NOTHING, "b", "a"), RuleKind.ROOM, "b", False)
    rules = add_rule(rules, RuleKind.ROOM, "b", {"actions": ["notify"]})
    assert own_ids(rules, RuleKind.ROOM) == ["a", "b"]
    rule = find_rule(rules, USER, RuleKind.ROOM, "b")
    assert (rule.actions, rule.enabled) == (("notify",), False)


def test_a_rule_made_again_after_deletion_is_enabled() -> None:
    rules = set_enabled(add(NOTHING, "a"), RuleKind.ROOM, "a", False)
    rules = add(delete_rule(rules, RuleKind.ROOM, "a"), "a")
    assert find_rule(rules, USER, RuleKind.ROOM, "a").enabled


@pytest.mark.parametrize("anchor", ["missing", ".m.rule.message", "", "self"])
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_rule_can_only_be_placed_next_to_another_of_the_users_own(side: str, anchor: str) -> None:
    rules = add(NOTHING, "self", kind=RuleKind.UNDERRIDE)
    with pytest.raises(UnknownAnchor, match="before/after rule not found"):
        add(rules, "self", kind=RuleKind.UNDERRIDE, **{side: anchor})


def test_the_same_id_may_be_used_once_in_each_kind() -> None:
    rules = add(add(NOTHING, "x"), "x", kind=RuleKind.SENDER)
    rules = delete_rule(rules, RuleKind.ROOM, "x")
    assert own_ids(rules, RuleKind.SENDER) == ["x"]


def test_historical_actions_are_kept_for_clients_that_look_for_them() -> None:
    rules = add_rule(NOTHING, RuleKind.ROOM, "r", {"actions": ["dont_notify", "coalesce"]})
    assert find_rule(rules, USER, RuleKind.ROOM, "r").actions == ("dont_notify", "coalesce")


def test_conditions_of_unknown_kinds_are_kept_for_clients() -> None:
    condition = {"kind": "org.example.moon_phase", "phase": {"full": True}}
    rules = add_rule(NOTHING, RuleKind.OVERRIDE, "x", {"actions": [], "conditions": [condition]})
    assert find_rule(rules, USER, RuleKind.OVERRIDE, "x").conditions == (condition,)


# --- What is refused


@pytest.mark.parametrize("rule_id", [".mine", ".m.rule.master", ".", "", "a/b", "a\\b", "x" * 256, "é" * 128])
@pytest.mark.parametrize("kind", RuleKind)
def test_bad_rule_ids_are_refused(kind: RuleKind, rule_id: str) -> None:
    with pytest.raises(InvalidRule):
        add_rule(NOTHING, kind, rule_id, {"actions": [], "pattern": "x"})


BAD_ACTIONS: list[Any] = [
    None,
    "notify",
    {},
    [None],
    ["alert"],
    [{}],
    [{"set_tweak": 1}],
    [["notify"]],
    ["notify"] * 17,
]


@pytest.mark.parametrize("actions", BAD_ACTIONS)
def test_bad_actions_are_refused(actions: Any) -> None:
    rules = add(NOTHING, "r")
    for refused in (
        lambda: add_rule(NOTHING, RuleKind.ROOM, "r", {"actions": actions}),
        lambda: set_actions(rules, RuleKind.ROOM, "r", actions),
        lambda: set_actions(rules, RuleKind.OVERRIDE, ".m.rule.tombstone", actions),
    ):
        with pytest.raises(InvalidRule):
            refused()


@pytest.mark.parametrize("pattern", [None, 1, "", ["cake"], "x" * 513])
def test_a_content_rule_needs_a_pattern(pattern: Any) -> None:
    with pytest.raises(InvalidRule):
        add_rule(NOTHING, RuleKind.CONTENT, "x", {"actions": [], "pattern": pattern})


@pytest.mark.parametrize("value", ["", "x", 0, 2**53 - 1, True, False, None], ids=repr)
@pytest.mark.parametrize("kind", ["event_property_is", "event_property_contains"])
def test_a_property_may_be_compared_with_any_scalar(kind: str, value: Any) -> None:
    condition = {"kind": kind, "key": "content.x", "value": value}
    rules = add_rule(NOTHING, RuleKind.OVERRIDE, "x", {"actions": [], "conditions": [condition]})
    assert find_rule(rules, USER, RuleKind.OVERRIDE, "x").conditions == (condition,)


@pytest.mark.parametrize(
    "conditions",
    [
        None,
        {},
        ["event_match"],
        [{}],
        [{"kind": 1}],
        [{"kind": "event_match", "key": "type"}],
        [{"kind": "event_match", "key": "type", "pattern": 7}],
        [{"kind": "event_match", "pattern": "x"}],
        [{"kind": "event_match", "key": "x" * 513, "pattern": "x"}],
        [{"kind": "event_property_is", "key": "type"}],
        [{"kind": "event_property_is", "value": "x"}],
        [{"kind": "event_property_contains", "value": "x"}],
        [{"kind": "event_property_is", "key": "type", "value": 1.5}],
        [{"kind": "event_property_is", "key": "type", "value": 2**53}],
        [{"kind": "event_property_is", "key": "type", "value": ["x"]}],
        [{"kind": "event_property_contains", "key": "type", "value": {}}],
        [{"kind": "room_member_count"}],
        [{"kind": "room_member_count", "is": 2}],
        [{"kind": "room_member_count", "is": "=2"}],
        [{"kind": "room_member_count", "is": "two"}],
        [{"kind": "room_member_count", "is": "9" * 5000}],
        [{"kind": "sender_notification_permission"}],
        [{"kind": "contains_display_name"}] * 33,
    ],
)
@pytest.mark.parametrize("kind", [RuleKind.OVERRIDE, RuleKind.UNDERRIDE])
def test_bad_conditions_are_refused(kind: RuleKind, conditions: Any) -> None:
    with pytest.raises(InvalidRule):
        add_rule(NOTHING, kind, "x", {"actions": [], "conditions": conditions})


@pytest.mark.parametrize("enabled", [None, 1, "true", [], {}])
def test_enabled_must_be_a_boolean(enabled: Any) -> None:
    with pytest.raises(InvalidRule):
        set_enabled(NOTHING, RuleKind.OVERRIDE, ".m.rule.master", enabled)


@pytest.mark.parametrize("kind", RuleKind)
@pytest.mark.parametrize("rule_id", ["missing", ".m.rule.contains_user_name"])
def test_what_is_not_there_is_not_found(kind: RuleKind, rule_id: str) -> None:
    rules = add(NOTHING, "other", kind=RuleKind.ROOM)
    for missing in (
        lambda: find_rule(rules, USER, kind, rule_id),
        lambda: delete_rule(rules, kind, rule_id),
        lambda: set_enabled(rules, kind, rule_id, True),
        lambda: set_actions(rules, kind, rule_id, ["notify"]),
    ):
        with pytest.raises(RuleNotFound):
            missing()


def test_a_default_rule_can_be_disabled_but_not_deleted() -> None:
    with pytest.raises(InvalidRule):
        delete_rule(NOTHING, RuleKind.UNDERRIDE, ".m.rule.message")


def test_unknown_kinds_are_refused() -> None:
    assert RuleKind.parse("sender") is RuleKind.SENDER
    with pytest.raises(InvalidRule):
        RuleKind.parse("device")


def test_each_error_says_what_a_route_answers() -> None:
    answers = {error: (error.status, error.errcode) for error in PushRuleError.__subclasses__()}
    assert answers == {
        RuleNotFound: (404, "M_NOT_FOUND"),
        InvalidRule: (400, "M_INVALID_PARAM"),
        UnknownAnchor: (400, "M_UNKNOWN"),
        TooManyRules: (413, "M_TOO_LARGE"),
    }


# --- Limits (HARDENING 14)


def test_rules_of_a_kind_are_counted() -> None:
    rules = PushRules({RuleKind.ROOM: tuple(PushRule(f"!{n}:hs", ()) for n in range(MAX_RULES_PER_KIND))})
    with pytest.raises(TooManyRules):
        add(rules, "!one_more:hs")
    assert add(rules, "!7:hs") == rules
    assert own_ids(add(rules, "@one:hs", kind=RuleKind.SENDER), RuleKind.SENDER) == ["@one:hs"]


def test_patterns_that_search_a_text_are_counted_over_all_kinds() -> None:
    rules = NOTHING
    for n in range(MAX_SEARCHES - 2):
        rules = add_rule(rules, RuleKind.CONTENT, f"{n}", {"pattern": "cake", "actions": []})
    searching = [
        {"kind": "event_match", "key": "content.body", "pattern": "x"},
        {"kind": "event_match", "key": "content.topic", "pattern": "x*"},
        {"kind": "contains_display_name"},
    ]
    comparing = [{"kind": "event_match", "key": "type", "pattern": "m.room.message"}] * 5
    add_rule(rules, RuleKind.OVERRIDE, "x", {"actions": [], "conditions": searching[:2] + comparing})
    with pytest.raises(TooManyRules):
        add_rule(rules, RuleKind.OVERRIDE, "x", {"actions": [], "conditions": searching})
    with pytest.raises(TooManyRules):
        add_rule(rules, RuleKind.CONTENT, "x", {"pattern": "tea?", "actions": []})
    for n in range(8):
        rules = delete_rule(rules, RuleKind.CONTENT, f"{n}")
    add_rule(rules, RuleKind.CONTENT, "x", {"pattern": "tea?", "actions": []})


def test_the_size_of_all_rules_together_is_bounded() -> None:
    long = {"actions": [{"set_tweak": "sound", "value": "x" * 100_000}]}
    rules = add_rule(NOTHING, RuleKind.ROOM, "r", long)
    rules = set_actions(rules, RuleKind.UNDERRIDE, ".m.rule.message", long["actions"])
    with pytest.raises(TooManyRules):
        set_actions(rules, RuleKind.ROOM, "r", long["actions"] * 5)
    with pytest.raises(TooManyRules):
        add_rule(rules, RuleKind.ROOM, "s", {"actions": long["actions"] * 5})


def test_json_that_cannot_be_stored_is_refused() -> None:
    deep: Any = 1
    for _ in range(2000):
        deep = [deep]
    for value in (deep, "\ud800", 2**80):
        with pytest.raises(InvalidRule):
            add_rule(NOTHING, RuleKind.ROOM, "r", {"actions": [{"set_tweak": "x", "value": value}]})


# --- Changes of default rules and the stored form


def test_changes_of_default_rules_are_shown_and_undoing_them_leaves_nothing_stored() -> None:
    sound = [{"set_tweak": "sound", "value": "bing"}]
    rules = set_enabled(NOTHING, RuleKind.OVERRIDE, ".m.rule.master", True)
    rules = set_actions(rules, RuleKind.UNDERRIDE, ".m.rule.message", ["notify", *sound])
    rules = set_enabled(rules, RuleKind.UNDERRIDE, ".m.rule.message", False)
    assert find_rule(rules, USER, RuleKind.OVERRIDE, ".m.rule.master").enabled
    message = find_rule(rules, USER, RuleKind.UNDERRIDE, ".m.rule.message")
    assert (message.enabled, message.default, message.actions) == (False, True, ("notify", *sound))

    rules = set_enabled(rules, RuleKind.OVERRIDE, ".m.rule.master", False)
    rules = set_enabled(rules, RuleKind.UNDERRIDE, ".m.rule.message", True)
    rules = set_actions(rules, RuleKind.UNDERRIDE, ".m.rule.message", ["notify"])
    assert rules == NOTHING


def test_only_what_the_user_made_is_stored() -> None:
    rules = set_enabled(add(NOTHING, "!r:hs"), RuleKind.UNDERRIDE, ".m.rule.call", False)
    assert stored_content(rules) == {
        "global": {
            "override": [],
            "content": [],
            "room": [{"rule_id": "!r:hs", "default": False, "enabled": True, "actions": []}],
            "sender": [],
            "underride": [{"rule_id": ".m.rule.call", "default": True, "enabled": False}],
        }
    }


def test_the_complete_content_of_another_server_is_understood() -> None:
    rules = add(NOTHING, "b", "a", kind=RuleKind.OVERRIDE)
    rules = set_enabled(rules, RuleKind.OVERRIDE, "a", False)
    rules = set_actions(rules, RuleKind.UNDERRIDE, ".m.rule.message", [])
    complete = {"global": ruleset(rules, USER)}
    complete["global"]["content"].append(
        {"rule_id": ".m.rule.contains_user_name", "default": True, "actions": []}
    )
    assert parse_stored(complete) == rules
    assert parse_stored({"global": ruleset(NOTHING, USER)}) == NOTHING


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"global": []},
        {"global": {"room": {}, "override": "x", "other": [1]}},
        {
            "global": {
                "room": [None, 7, {}, {"rule_id": 1}, {"rule_id": "r"}, {"rule_id": "r", "actions": "notify"}]
            }
        },
        {"global": {"override": [{"rule_id": "x", "actions": [], "conditions": [{"kind": "ok"}, None]}]}},
        {"global": {"content": [{"rule_id": "x", "actions": [], "pattern": 4}]}},
        {"global": {"underride": [{"rule_id": ".m.rule.call", "enabled": "no", "actions": 1}]}},
    ],
)
def test_stored_entries_that_are_no_rules_are_passed_over(content: Any) -> None:
    assert parse_stored(content) == NOTHING


def test_a_rule_stored_twice_counts_once() -> None:
    entry = {"rule_id": "r", "actions": ["notify"]}
    rules = parse_stored({"global": {"room": [entry, {**entry, "actions": []}]}})
    assert rules == add_rule(NOTHING, RuleKind.ROOM, "r", {"actions": ["notify"]})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
conditions = st.lists(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["event_match", "room_member_count", "contains_display_name", "new"])},
        optional={"key": json_values, "pattern": json_values, "is": st.sampled_from(["2", ">3", 4])},
    )
    | json_values,
    max_size=3,
)
actions = st.lists(st.sampled_from(["notify", "dont_notify"]) | json_values, max_size=3)
rule_ids = st.sampled_from(["a", "b", "c", ".m.rule.master", ".m.rule.call", "x/y"])
bodies = st.fixed_dictionaries(
    {}, optional={"actions": actions, "conditions": conditions | json_values, "pattern": json_values}
)
edits = st.tuples(
    st.sampled_from(["add", "delete", "enable", "actions"]),
    st.sampled_from(list(RuleKind)),
    rule_ids,
    bodies,
    st.none() | rule_ids,
    st.none() | rule_ids,
)


@given(st.lists(edits, max_size=8))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_edits_give_rules_or_a_typed_error_and_the_stored_form_gives_the_rules_back(
    edits: list[Any],
) -> None:
    rules = NOTHING
    for edit, kind, rule_id, body, before, after in edits:
        try:
            if edit == "add":
                rules = add_rule(rules, kind, rule_id, body, before=before, after=after)
            elif edit == "delete":
                rules = delete_rule(rules, kind, rule_id)
            elif edit == "enable":
                rules = set_enabled(rules, kind, rule_id, bool(body))
            else:
                rules = set_actions(rules, kind, rule_id, body.get("actions"))
        except PushRuleError:
            continue
    assert parse_stored(json.loads(json.dumps(stored_content(rules)))) == rules
    shown = ruleset(rules, USER)
    assert parse_stored({"global": shown}) == rules
    for kind in RuleKind:
        assert [rule for rule in shown[kind] if rule["default"]] or kind in ("content", "room", "sender")
        assert len({rule["rule_id"] for rule in shown[kind]}) == len(shown[kind])


@given(
    json_values
    | st.fixed_dictionaries({"global": st.dictionaries(st.sampled_from(list(RuleKind)), json_values)})
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_stored_content_is_read(content: Any) -> None:
    ruleset(parse_stored(content), USER)
