"""What push rules say about events, and that saying it for all at once is saying it for each."""

import operator
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.protocol.globs import WordText, compile_glob, compile_word_glob
from homeserver.protocol.push_evaluation import (
    SILENT,
    EventFacts,
    Verdict,
    compile_rules,
    evaluate,
    evaluate_defaults,
    parse_path,
)
from homeserver.protocol.push_rule_edits import add_rule, set_actions, set_enabled
from homeserver.protocol.push_rules import PushRule, PushRules, RuleKind, TooManyRules
from homeserver.protocol.push_ruleset import ruleset

ALICE = "@alice:hs"
BOB = "@bob:hs"
ROOM = "!room:hs"
DEFAULTS = PushRules()
SOUND = {"set_tweak": "sound", "value": "default"}
HIGHLIGHT = {"set_tweak": "highlight"}


def event(content: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    basis = {"type": "m.room.message", "room_id": ROOM, "sender": BOB, "event_id": "$event"}
    return {**basis, "content": {"msgtype": "m.text", "body": "Hi"} if content is None else content, **fields}


def facts_of(
    event: dict[str, Any], members: int = 3, level: float = 0, levels: dict[str, int] | None = None
) -> EventFacts:
    return EventFacts(event, member_count=members, sender_level=level, notification_levels=levels or {})


def verdict(
    rules: PushRules, event: dict[str, Any], *, user: str = ALICE, name: str | None = None, **room: Any
) -> Verdict:
    return evaluate(compile_rules(rules, user), facts_of(event, **room), name)


def holds(condition: dict[str, Any], event: dict[str, Any], **room: Any) -> bool:
    """Whether a rule of the highest priority with this condition matches."""
    rule = PushRule("only", ("notify", {"set_tweak": "mark"}), (condition,))
    return verdict(PushRules({RuleKind.OVERRIDE: (rule,)}), event, **room).actions == rule.actions


# --- The default rules


MESSAGE = event()
MENTION = {"msgtype": "m.text", "body": "Hi", "m.mentions": {"user_ids": [ALICE]}}
ROOM_MENTION = {"msgtype": "m.text", "body": "Hi", "m.mentions": {"room": True}}
EDIT = {"m.relates_to": {"rel_type": "m.replace", "event_id": "$x"}}


@pytest.mark.parametrize(
    ("event", "room", "actions"),
    [
        (MESSAGE, {}, ["notify"]),
        (MESSAGE, {"members": 2}, ["notify", SOUND]),
        (event(type="m.room.encrypted", content={}), {}, ["notify"]),
        (event(type="m.room.encrypted", content={}), {"members": 2}, ["notify", SOUND]),
        (event(type="m.call.invite"), {}, ["notify", {"set_tweak": "sound", "value": "ring"}]),
        (event({"msgtype": "m.notice", "body": "Hi"}), {}, []),
        (event(MENTION), {}, ["notify", SOUND, HIGHLIGHT]),
        (event({**MENTION, "msgtype": "m.notice"}), {}, []),
        (event({**MENTION, **EDIT}), {}, ["notify", SOUND, HIGHLIGHT]),
        (event({**MESSAGE["content"], **EDIT}), {}, []),
        (event({"m.mentions": {"user_ids": ["@Alice:hs", "alice"]}}), {}, ["notify"]),
        (event({"m.mentions": {"user_ids": ALICE}}), {}, ["notify"]),
        (event({"body": "Hi alice @alice:hs @room"}), {"level": 100}, ["notify"]),
        (event(ROOM_MENTION), {"level": 49}, ["notify"]),
        (event(ROOM_MENTION), {"level": 50}, ["notify", HIGHLIGHT]),
        (event(ROOM_MENTION), {"level": 50, "levels": {"room": 60}}, ["notify"]),
        (event(ROOM_MENTION), {"level": float("inf"), "levels": {"room": 60}}, ["notify", HIGHLIGHT]),
        (event({"m.mentions": {"room": "true"}}), {"level": 100}, ["notify"]),
        (event({"m.mentions": {"room": 1}}), {"level": 100}, ["notify"]),
        (event({"membership": "invite"}, type="m.room.member", state_key=ALICE), {}, ["notify", SOUND]),
        (event({"membership": "invite"}, type="m.room.member", state_key="@ALICE:hs"), {}, []),
        (event({"membership": "invite"}, type="m.room.member", state_key="@carol:hs"), {}, []),
        (event({"membership": "join"}, type="m.room.member", state_key=ALICE), {}, []),
        (event({}, type="m.room.tombstone", state_key=""), {}, ["notify", HIGHLIGHT]),
        (event({}, type="m.room.tombstone", state_key="x"), {}, []),
        (event({}, type="m.room.tombstone"), {}, []),
        (event({}, type="m.reaction"), {"members": 2}, []),
        (event({"allow": ["*"]}, type="m.room.server_acl", state_key=""), {}, []),
        (event({"topic": "Tea"}, type="m.room.topic", state_key=""), {}, []),
        (event(MENTION, sender=ALICE), {"members": 2}, []),
    ],
)
def test_the_default_rules_decide_as_described(event: dict[str, Any], room: Any, actions: list[Any]) -> None:
    assert list(verdict(DEFAULTS, event, **room).actions) == actions


def test_the_master_rule_silences_everything_once_enabled() -> None:
    rules = set_enabled(DEFAULTS, RuleKind.OVERRIDE, ".m.rule.master", True)
    rules = add_rule(rules, RuleKind.OVERRIDE, "all", {"actions": ["notify"]})
    assert verdict(rules, event(MENTION)) == SILENT


def test_nobody_is_notified_of_their_own_events() -> None:
    rules = add_rule(DEFAULTS, RuleKind.OVERRIDE, "all", {"actions": ["notify", HIGHLIGHT]})
    assert verdict(rules, event(sender=ALICE)) == SILENT
    assert verdict(rules, event(sender=BOB)).notify


def test_a_disabled_or_changed_default_rule_is_heeded() -> None:
    rules = set_enabled(DEFAULTS, RuleKind.OVERRIDE, ".m.rule.is_user_mention", False)
    assert verdict(rules, event(MENTION)).actions == ("notify",)
    rules = set_actions(DEFAULTS, RuleKind.UNDERRIDE, ".m.rule.message", ["notify", HIGHLIGHT])
    assert verdict(rules, MESSAGE).highlight
    assert verdict(rules, event(MENTION)).sound == "default"


def test_kinds_are_checked_in_their_order_and_the_first_match_decides() -> None:
    def mark(value: int) -> list[Any]:
        return ["notify", {"set_tweak": "mark", "value": value}]

    rules = add_rule(DEFAULTS, RuleKind.UNDERRIDE, "u", {"actions": mark(5)})
    found = [verdict(rules, MESSAGE).tweaks]
    rules = add_rule(rules, RuleKind.SENDER, BOB, {"actions": mark(4)})
    found.append(verdict(rules, MESSAGE).tweaks)
    rules = add_rule(rules, RuleKind.ROOM, ROOM, {"actions": mark(3)})
    found.append(verdict(rules, MESSAGE).tweaks)
    rules = add_rule(rules, RuleKind.CONTENT, "c", {"pattern": "hi", "actions": mark(2)})
    found.append(verdict(rules, MESSAGE).tweaks)
    rules = add_rule(rules, RuleKind.OVERRIDE, "o", {"actions": mark(1)})
    found.append(verdict(rules, MESSAGE).tweaks)
    rules = add_rule(rules, RuleKind.OVERRIDE, "o2", {"actions": mark(0)})
    found.append(verdict(rules, MESSAGE).tweaks)
    assert [tweaks["mark"] for tweaks in found] == [5, 4, 3, 2, 1, 0]


def test_room_and_sender_rules_are_about_exactly_that_room_and_sender() -> None:
    rules = add_rule(DEFAULTS, RuleKind.ROOM, ROOM, {"actions": []})
    rules = add_rule(rules, RuleKind.SENDER, "@spam:hs", {"actions": []})
    assert not verdict(rules, MESSAGE).notify
    assert verdict(rules, event(room_id="!ROOM:hs")).notify
    assert not verdict(rules, event(room_id="!other:hs", sender="@spam:hs")).notify
    assert verdict(rules, event(room_id="!other:hs", sender="@Spam:hs")).notify


def test_rules_about_a_room_keep_their_place_among_the_others() -> None:
    here = {"kind": "event_match", "key": "room_id", "pattern": ROOM}
    three = {"kind": "room_member_count", "is": "3"}
    rules = DEFAULTS
    expected: list[int] = []
    for n, conditions in enumerate([[here], [here, three], [three], [here], [three], [here]]):
        body = {"conditions": conditions, "actions": ["notify", {"set_tweak": "n", "value": n}]}
        rules = add_rule(rules, RuleKind.OVERRIDE, f"{n}", body)
        expected.insert(0, n)
    found: list[int] = []
    while "n" in (tweaks := verdict(rules, MESSAGE).tweaks):
        found.append(tweaks["n"])
        rules = set_enabled(rules, RuleKind.OVERRIDE, f"{tweaks['n']}", False)
    assert found == expected


# --- Verdicts


@pytest.mark.parametrize(
    ("actions", "notify", "highlight", "sound", "tweaks"),
    [
        ([], False, False, None, {}),
        (["notify"], True, False, None, {}),
        (["notify", HIGHLIGHT], True, True, None, {"highlight": True}),
        (["notify", {**HIGHLIGHT, "value": False}], True, False, None, {"highlight": False}),
        (["notify", {**HIGHLIGHT, "value": "yes"}], True, False, None, {"highlight": "yes"}),
        ([SOUND, "notify"], True, False, "default", {"sound": "default"}),
        (["notify", {**SOUND, "value": 7}], True, False, None, {"sound": 7}),
        (
            ["notify", {"set_tweak": "sound"}, {"set_tweak": "flash", "value": [1]}],
            True,
            False,
            None,
            {"flash": [1]},
        ),
        ([HIGHLIGHT, SOUND], False, False, None, {}),
    ],
)
def test_actions_mean_what_they_say(
    actions: list[Any], notify: bool, highlight: bool, sound: str | None, tweaks: dict[str, Any]
) -> None:
    rules = add_rule(DEFAULTS, RuleKind.OVERRIDE, "all", {"actions": actions})
    assert verdict(rules, MESSAGE) == Verdict(notify, highlight, sound, tuple(actions), tweaks)


# --- Conditions


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("type", ("type",)),
        ("content.body", ("content", "body")),
        (r"content.m\.relates_to.rel_type", ("content", "m.relates_to", "rel_type")),
        (r"content.m\\foo", ("content", r"m\foo")),
        (r"content.\x\.y", ("content", r"\x.y")),
        (r"a\\.b", ("a\\", "b")),
        ("a.", ("a", "")),
        ("a\\", ("a\\",)),
        ("", ("",)),
    ],
)
def test_property_paths_are_split_at_dots_that_are_not_escaped(key: str, path: tuple[str, ...]) -> None:
    assert parse_path(key) == path


@pytest.mark.parametrize(
    ("key", "pattern", "content", "expected"),
    [
        ("content.topic", "lunc?*", {"topic": "Lunch plans"}, True),
        ("content.topic", "lunc?*", {"topic": "LUNCH"}, True),
        ("content.topic", "lunc?*", {"topic": " lunch"}, False),
        ("content.topic", "lunc?*", {"topic": "lunc"}, False),
        ("content.topic", "lunc?*", {"topic": None}, False),
        ("content.topic", "*", {}, False),
        ("content.topic", "*", {"topic": ["x"]}, False),
        ("content.topic", "*", {"topic": 7}, False),
        ("content.topic", "", {"topic": ""}, True),
        ("content.topic", "TEA", {"topic": "tea"}, True),
        ("content.topic", "tea", {"topic": "green tea"}, False),
        ("content.body", "ex*ple", {"body": "An example event."}, True),
        ("content.body", "ex*ple", {"body": "An exciting triple-whammy"}, True),
        ("content.body", "tea", {"body": "Green TEA!"}, True),
        ("content.body", "tea", {"body": "team"}, False),
        ("content.body", "*", {}, False),
        ("content.body", "*", {"body": 4}, False),
        ("content.body", "*", {"body": ""}, True),
        (r"content.m\.relates_to.rel_type", "m.thread", {"m.relates_to": {"rel_type": "m.thread"}}, True),
        ("content.m.relates_to.rel_type", "m.thread", {"m.relates_to": {"rel_type": "m.thread"}}, False),
        ("content.a.b", "x", {"a": "x"}, False),
        ("content.a.b", "*", {"a": "a.b"}, False),
        ("content.topic", "te?", {"topic": "Tea"}, True),
        ("content", "*", {"a": "x"}, False),
        ("room_id", "!ROOM:*", {}, True),
        ("room_id", ROOM, {}, True),
        ("room_id", "!other:hs", {}, False),
        ("sender", BOB, {}, True),
        ("sender", ALICE, {}, False),
    ],
)
def test_event_match(key: str, pattern: str, content: Any, expected: bool) -> None:
    assert holds({"kind": "event_match", "key": key, "pattern": pattern}, event(content)) is expected


SCALARS: list[Any] = ["x", "", "1", "true", 1, 0, -1, 2**53 - 1, True, False, None]


@pytest.mark.parametrize("value", SCALARS, ids=repr)
@pytest.mark.parametrize("found", [*SCALARS, 1.0, 2**53, [], ["x"], {}], ids=repr)
def test_event_property_is_and_contains_compare_without_casts(value: Any, found: Any) -> None:
    same = type(value) is type(found) and value == found
    condition = {"key": "content.x", "value": value}
    assert holds({"kind": "event_property_is", **condition}, event({"x": found})) is same
    assert holds({"kind": "event_property_contains", **condition}, event({"x": [{}, found]})) is same
    assert not holds({"kind": "event_property_is", **condition}, event({"y": found}))
    assert not holds({"kind": "event_property_contains", **condition}, event({"x": {"x": found}}))


@pytest.mark.parametrize("value", [{}, [], ["x"], 1.5, 2**53], ids=repr)
def test_nothing_equals_what_cannot_be_compared(value: Any) -> None:
    condition = {"key": "content.x", "value": value}
    for found in (value, {"y": 1}, None):
        assert not holds({"kind": "event_property_is", **condition}, event({"x": found}))
        assert not holds({"kind": "event_property_contains", **condition}, event({"x": [found]}))
    assert not holds({"kind": "event_property_is", **condition}, event({}))


def test_event_property_contains_takes_no_parts() -> None:
    condition = {"kind": "event_property_contains", "key": "content.alt_aliases", "value": "#a:hs"}
    assert holds(condition, event({"alt_aliases": ["#b:hs", "#a:hs"]}))
    assert not holds(condition, event({"alt_aliases": ["#a:hs2"]}))
    assert not holds(condition, event({"alt_aliases": "#a:hs"}))


@pytest.mark.parametrize(
    ("comparison", "counts"),
    [
        ("2", [2]),
        ("==2", [2]),
        ("<2", [1]),
        (">2", [3, 4]),
        ("<=2", [1, 2]),
        (">=2", [2, 3, 4]),
        ("02", [2]),
        ("", []),
        ("=2", []),
        ("2 ", []),
        ("-2", []),
        ("²", []),
        ("٢", []),
        ("9" * 6000, []),
    ],
)
def test_room_member_count(comparison: str, counts: list[int]) -> None:
    condition = {"kind": "room_member_count", "is": comparison}
    assert [count for count in (1, 2, 3, 4) if holds(condition, MESSAGE, members=count)] == counts


@pytest.mark.parametrize(
    ("key", "level", "levels", "expected"),
    [
        ("room", 50, {}, True),
        ("room", 49, {}, False),
        ("room", 0, {"room": 0}, True),
        ("room", 50, {"room": 51}, False),
        ("here", 20, {"room": 0, "here": 20}, True),
        ("here", 20, {"room": 0}, False),
    ],
)
def test_sender_notification_permission(key: str, level: int, levels: Any, expected: bool) -> None:
    condition = {"kind": "sender_notification_permission", "key": key}
    assert holds(condition, MESSAGE, level=level, levels=levels) is expected


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("Alice", "hello alice!", True),
        ("Alice", "malice", False),
        ("Al*e", "hello alice", False),
        ("Al*e", "hello al*e", True),
        ("Alice Liddell", "for ALICE LIDDELL.", True),
        ("", "hello", False),
        (None, "hello None", False),
        ("Alice", None, False),
    ],
)
def test_contains_display_name(name: str | None, body: str | None, expected: bool) -> None:
    content = {} if body is None else {"body": body}
    assert holds({"kind": "contains_display_name"}, event(content), name=name) is expected


def test_the_display_name_is_only_needed_by_rules_that_ask_for_it() -> None:
    assert not compile_rules(DEFAULTS, ALICE).needs_display_name
    body = {"actions": [], "conditions": [{"kind": "contains_display_name"}]}
    rules = add_rule(DEFAULTS, RuleKind.OVERRIDE, "x", body)
    assert compile_rules(rules, ALICE).needs_display_name


@pytest.mark.parametrize(
    "condition",
    [
        {},
        {"kind": "device"},
        {"kind": None},
        {"kind": "event_match"},
        {"kind": "event_match", "key": "type"},
        {"kind": "event_match", "key": 1, "pattern": "*"},
        {"kind": "event_match", "key": "type", "pattern": None},
        {"kind": "event_property_is", "key": "content.missing"},
        {"kind": "event_property_is", "key": "content", "value": {}},
        {"kind": "event_property_is", "key": "content.x", "value": 1.5},
        {"kind": "event_property_contains", "key": "content.x", "value": []},
        {"kind": "room_member_count", "is": 3},
        {"kind": "sender_notification_permission"},
    ],
)
def test_conditions_that_are_not_understood_hold_for_nothing(condition: dict[str, Any]) -> None:
    assert not holds(condition, event({"x": 1.5, "y": [[]]}), level=100)


def test_a_user_id_with_a_star_is_no_glob() -> None:
    star = "@a*e:hs"
    invite = event({"membership": "invite"}, type="m.room.member", state_key=ALICE)
    assert verdict(DEFAULTS, invite, user=star) == SILENT
    assert verdict(DEFAULTS, {**invite, "state_key": star}, user=star).notify


# --- For all at once


USERS = [ALICE, BOB, "@carol:hs", "@Alice:hs", "@dan*:hs"]
names = st.sampled_from([*USERS, "@nobody:hs"])
contents = st.fixed_dictionaries(
    {},
    optional={
        "msgtype": st.sampled_from(["m.text", "m.notice", "M.NOTICE", 4]),
        "body": st.sampled_from(["Hi", "some tea for alice", "TEA", "", None]),
        "membership": st.sampled_from(["invite", "join", "INVITE", "leave"]),
        "m.mentions": st.fixed_dictionaries(
            {},
            optional={
                "user_ids": st.lists(names | st.sampled_from([None, 1, {}]), max_size=4) | names,
                "room": st.sampled_from([True, False, 1]),
            },
        )
        | st.just([]),
        "m.relates_to": st.fixed_dictionaries({"rel_type": st.sampled_from(["m.replace", "m.thread", 1])}),
    },
)
types = st.sampled_from(
    [
        "m.room.message",
        "M.ROOM.MESSAGE",
        "m.room.encrypted",
        "m.room.member",
        "m.room.tombstone",
        "m.room.server_acl",
        "m.reaction",
        "m.call.invite",
        "m.custom",
    ]
)
events = st.fixed_dictionaries(
    {
        "type": types,
        "room_id": st.sampled_from([ROOM, "!ROOM:hs", "!other:hs"]),
        "sender": names,
        "content": contents,
    },
    optional={"state_key": names | st.just("")},
)
rooms = st.fixed_dictionaries(
    {
        "members": st.integers(1, 4),
        "level": st.sampled_from([0, 50, 100, float("inf")]),
        "levels": st.sampled_from([{}, {"room": 0}, {"room": 100}]),
    }
)


@given(events, rooms)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_the_shared_verdict_is_the_verdict_of_the_defaults_for_every_user(event: Any, room: Any) -> None:
    shared = evaluate_defaults(facts_of(event, **room))
    for user in [*USERS, "@nobody:hs", "@other:elsewhere"]:
        assert shared.of(user) == verdict(DEFAULTS, event, user=user, **room)


@given(events, rooms)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_evaluating_for_one_leaves_the_facts_as_they_were_for_the_next(event: Any, room: Any) -> None:
    facts = facts_of(event, **room)
    for user in USERS:
        assert evaluate(compile_rules(DEFAULTS, user), facts) == verdict(DEFAULTS, event, user=user, **room)
    assert evaluate_defaults(facts) == evaluate_defaults(facts_of(event, **room))


def test_who_keeps_the_defaults_shares_their_verdict_in_rooms_without_own_rules() -> None:
    def is_default(rules: PushRules, room_id: str = ROOM) -> bool:
        return compile_rules(rules, ALICE).is_default_in(room_id)

    assert is_default(DEFAULTS)
    muted = {"actions": [], "conditions": [{"kind": "event_match", "key": "room_id", "pattern": "!muted:hs"}]}
    rules = add_rule(DEFAULTS, RuleKind.OVERRIDE, "mute", muted)
    rules = add_rule(rules, RuleKind.ROOM, "!quiet:hs", {"actions": []})
    assert is_default(rules)
    assert not is_default(rules, "!muted:hs")
    assert not is_default(rules, "!quiet:hs")
    rules = add_rule(rules, RuleKind.CONTENT, "tea", {"pattern": "tea", "actions": []})
    assert not is_default(rules)
    assert is_default(set_enabled(rules, RuleKind.CONTENT, "tea", False))
    assert not is_default(set_enabled(DEFAULTS, RuleKind.OVERRIDE, ".m.rule.master", True))
    assert not is_default(set_enabled(DEFAULTS, RuleKind.UNDERRIDE, ".m.rule.call", False))
    assert not is_default(set_actions(DEFAULTS, RuleKind.UNDERRIDE, ".m.rule.call", []))


# --- Against a second evaluator that knows no shortcuts


def actions_by_the_text(rules: PushRules, event: Any, user: str, name: str, room: Any) -> list[Any]:
    """The specification read aloud over the ruleset that clients see."""
    if event["sender"] == user:
        return []
    for kind, of_kind in ruleset(rules, user).items():
        for rule in of_kind:
            match kind:
                case "content":
                    conditions = [{"kind": "event_match", "key": "content.body", "pattern": rule["pattern"]}]
                case "room" | "sender":
                    key = "room_id" if kind == "room" else "sender"
                    conditions = [{"kind": "event_property_is", "key": key, "value": rule["rule_id"]}]
                case _:
                    conditions = rule["conditions"]
            if rule["enabled"] and all(
                condition_by_the_text(condition, event, user, name, room) for condition in conditions
            ):
                return list(rule["actions"])
    return []


def condition_by_the_text(condition: Any, event: Any, user: str, name: str, room: Any) -> bool:
    value = event
    for step in condition.get("key", "type").replace(r"m\.", "m").split("."):
        step = {"mmentions": "m.mentions", "mrelates_to": "m.relates_to"}.get(step, step)
        value = value.get(step, ...) if isinstance(value, dict) else ...
    match condition["kind"]:
        case "event_match" if condition["key"] == "content.body":
            return isinstance(value, str) and compile_word_glob(condition["pattern"])(WordText(value))
        case "event_match" if condition["pattern"] == user:
            return bool(value == user)
        case "event_match":
            return isinstance(value, str) and compile_glob(condition["pattern"], ignore_case=True)(value)
        case "event_property_is":
            return type(value) is type(condition["value"]) and bool(value == condition["value"])
        case "event_property_contains":
            return isinstance(value, list) and bool(condition["value"] in value)
        case "room_member_count":
            compare = {"<": operator.lt, ">": operator.gt}.get(condition["is"][0], operator.eq)
            return bool(compare(room["members"], int(condition["is"].strip("<>="))))
        case "sender_notification_permission":
            return bool(room["level"] >= room["levels"].get("room", 50))
        case "contains_display_name":
            body = event["content"].get("body")
            return isinstance(body, str) and WordText(body).contains(name)
    return False


some_conditions = st.sampled_from(
    [
        {"kind": "event_match", "key": "room_id", "pattern": ROOM},
        {"kind": "event_match", "key": "room_id", "pattern": "!other:hs"},
        {"kind": "event_match", "key": "room_id", "pattern": "!*:hs"},
        {"kind": "event_match", "key": "type", "pattern": "m.room.*"},
        {"kind": "event_match", "key": "content.body", "pattern": "t?a"},
        {"kind": "event_match", "key": "sender", "pattern": BOB},
        {"kind": "event_match", "key": "state_key", "pattern": ALICE},
        {"kind": "event_property_is", "key": r"content.m\.mentions.room", "value": True},
        {"kind": "event_property_contains", "key": r"content.m\.mentions.user_ids", "value": "@carol:hs"},
        {"kind": "event_property_contains", "key": r"content.m\.mentions.user_ids", "value": ALICE},
        {"kind": "room_member_count", "is": ">2"},
        {"kind": "room_member_count", "is": "<2"},
        {"kind": "contains_display_name"},
        {"kind": "unheard_of"},
    ]
)
own_rules = st.lists(
    st.tuples(
        st.sampled_from(list(RuleKind)),
        st.sampled_from(["x", "y", "z", ROOM, "!other:hs", BOB, "@carol:hs"]),
        st.lists(some_conditions, max_size=2),
        st.sampled_from(["tea", "al*ce", "*", "??"]),
        st.booleans(),
    ),
    max_size=8,
)
switched = st.sets(
    st.sampled_from(
        [
            (RuleKind.OVERRIDE, ".m.rule.suppress_notices"),
            (RuleKind.OVERRIDE, ".m.rule.is_user_mention"),
            (RuleKind.OVERRIDE, ".m.rule.member_event"),
            (RuleKind.UNDERRIDE, ".m.rule.message"),
        ]
    )
)


@given(own_rules, switched, events, rooms)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_any_rules_decide_as_the_specification_read_over_what_clients_see(
    own: list[Any], switched: set[Any], event: Any, room: Any
) -> None:
    rules = DEFAULTS
    for kind, rule_id in sorted(switched):
        rules = set_enabled(rules, kind, rule_id, False)
    for n, (kind, rule_id, conditions, pattern, enabled) in enumerate(own):
        body = {
            "conditions": conditions,
            "pattern": pattern,
            "actions": ["notify", {"set_tweak": "n", "value": n}],
        }
        rules = set_enabled(add_rule(rules, kind, rule_id, body), kind, rule_id, enabled)
    for user in (ALICE, "@carol:hs"):
        found = verdict(rules, event, user=user, name="Alice", **room)
        assert list(found.actions) == actions_by_the_text(rules, event, user, "Alice", room)


# --- Cost


def test_a_message_that_mentions_thousands_is_settled_in_one_pass() -> None:
    mentioned = [f"@user{n}:hs" for n in range(4000)]
    facts = facts_of(event({"body": "x", "m.mentions": {"user_ids": mentioned}}))
    start = time.process_time()
    shared = evaluate_defaults(facts)
    assert time.process_time() - start < 0.2
    assert shared.of("@user3999:hs").highlight
    assert not shared.of("@user4000:hs").highlight


@pytest.mark.parametrize(
    ("count", "pattern", "body"),
    [
        (10, "a?" * 250 + "{}", "a" * 60_000),
        (100, "a*" * 250 + "{}", "a " * 30_000),
        (100, "{}", "a " * 30_000),
    ],
)
def test_the_dearest_rules_a_user_can_have_are_bounded_on_the_longest_body(
    count: int, pattern: str, body: str
) -> None:
    """HARDENING 16."""
    rules = DEFAULTS
    for n in range(count):
        rules = add_rule(rules, RuleKind.CONTENT, f"{n}", {"pattern": pattern.format(n), "actions": []})
    with pytest.raises(TooManyRules):
        add_rule(rules, RuleKind.CONTENT, "more", {"pattern": "x", "actions": []})
    compiled, facts = compile_rules(rules, ALICE), facts_of(event({"body": body}))
    start = time.process_time()
    assert evaluate(compiled, facts).actions == ("notify",)
    assert time.process_time() - start < 1.0


def test_rules_about_other_rooms_cost_nothing() -> None:
    rules = PushRules({RuleKind.ROOM: tuple(PushRule(f"!{n}:hs", ()) for n in range(2000))})
    compiled, facts = compile_rules(rules, ALICE), facts_of(MESSAGE)
    start = time.process_time()
    for _ in range(1000):
        evaluate(compiled, facts)
    assert time.process_time() - start < 0.2
