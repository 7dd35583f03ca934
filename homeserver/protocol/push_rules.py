"""A user's push rules as a value: what is stored, what clients are shown, and how they are edited.

See client-server, "Push Rules". `PushRules` holds only what the user made of it: rules of their own and the
changes to default rules. So a default that a later version of the specification alters reaches everyone
who left it alone. Its stored form has the shape of `m.push_rules` content, reduced to those entries;
`ruleset` merges it with the default rules into what clients see. Editing gives a new value or raises a
`PushRuleError` and changes nothing. What the rules say about an event is the matter of `push_evaluation`.

    PushRuleError            what a route answers with: `status`, `errcode` and the message
    ├── RuleNotFound         404 M_NOT_FOUND
    ├── InvalidRule          400 M_INVALID_PARAM
    ├── UnknownAnchor        400 M_UNKNOWN: `before` or `after` names no rule of the user
    └── TooManyRules         413 M_TOO_LARGE
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, Final

import orjson

from homeserver.protocol.json_types import JsonObject

MAX_RULES_PER_KIND: Final = 2_000
MAX_RULESET_BYTES: Final = 512 * 1024
MAX_SEARCHES: Final = 100
"""How many of a user's patterns may search through a text rather than be compared with it. This bounds what
one user's rules can cost per event, whose body may be 64 KiB long."""
SEARCHES_OF_A_QUESTION_MARK: Final = 10
"""What a pattern with `?` counts for: its engine is slower, some milliseconds for the longest body."""
MAX_CONDITIONS: Final = 32
MAX_ACTIONS: Final = 16
MAX_STRING_LENGTH: Final = 512
"""Characters of a pattern, a property path or a value to compare with."""
MAX_RULE_ID_BYTES: Final = 255

MAX_EXACT_INTEGER: Final = 2**53 - 1
MEMBER_COUNT: Final = re.compile(r"(==|<=|>=|<|>)?([0-9]{1,15})")
"""The form of `is` in a `room_member_count` condition: a comparison, by default equality, and a number."""

Action = str | JsonObject
"""`"notify"`, or a tweak such as `{"set_tweak": "sound", "value": "default"}`."""

_HISTORICAL_ACTIONS: Final = ("dont_notify", "coalesce")


class PushRuleError(Exception):
    """An edit or a look-up that cannot be done; the message is for the client."""

    status: ClassVar[int]
    errcode: ClassVar[str]


class RuleNotFound(PushRuleError):
    status = 404
    errcode = "M_NOT_FOUND"


class InvalidRule(PushRuleError):
    status = 400
    errcode = "M_INVALID_PARAM"


class UnknownAnchor(PushRuleError):
    status = 400
    errcode = "M_UNKNOWN"


class TooManyRules(PushRuleError):
    status = 413
    errcode = "M_TOO_LARGE"


class RuleKind(StrEnum):
    """The kinds of rule, in the order in which they are checked."""

    OVERRIDE = "override"
    CONTENT = "content"
    ROOM = "room"
    SENDER = "sender"
    UNDERRIDE = "underride"

    @classmethod
    def parse(cls, text: str) -> "RuleKind":
        """The kind of this name; raises `InvalidRule` if there is none."""
        for kind in cls:
            if kind == text:
                return kind
        raise InvalidRule(f"Unknown kind of push rule: {text[:MAX_STRING_LENGTH]}")


@dataclass(frozen=True, slots=True)
class PushRule:
    """One rule. The JSON objects within are its own and are never changed."""

    rule_id: str
    actions: tuple[Action, ...]
    conditions: tuple[JsonObject, ...] = ()
    """Of override and underride rules: all of them must hold."""
    pattern: str = ""
    """Of content rules: the glob to look for in the body."""
    enabled: bool = True
    default: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What a user changed of a default rule; None is as it was."""

    enabled: bool | None = None
    actions: tuple[Action, ...] | None = None


RuleKey = tuple[RuleKind, str]


@dataclass(frozen=True, slots=True)
class PushRules:
    """What one user made of their push rules. The empty value stands for the defaults as they are."""

    own: Mapping[RuleKind, tuple[PushRule, ...]] = field(default_factory=dict)
    """The user's own rules, the most important first."""
    changes: Mapping[RuleKey, Change] = field(default_factory=dict)


# --- The rules that everyone has -----------------------------------------------------------------------

_MASTER: Final = ".m.rule.master"


def default_rules(user_id: str) -> dict[RuleKind, tuple[PushRule, ...]]:
    """The predefined rules of the specification, v1.19, for this user; some kinds have none.

    The legacy rules that looked for mentions in the body left the specification in v1.17 and are not here;
    nor is any rule of a proposal that is not part of it, such as those on polls and thread subscriptions.
    """
    # spec: client-server#predefined-rules
    highlight: Action = {"set_tweak": "highlight"}
    default_sound: Action = {"set_tweak": "sound", "value": "default"}
    ring: Action = {"set_tweak": "sound", "value": "ring"}
    two_members: JsonObject = {"kind": "room_member_count", "is": "2"}

    def match(key: str, pattern: str) -> JsonObject:
        return {"kind": "event_match", "key": key, "pattern": pattern}

    def rule(rule_id: str, conditions: list[JsonObject], *actions: Action, enabled: bool = True) -> PushRule:
        return PushRule(rule_id, actions, tuple(conditions), enabled=enabled, default=True)

    invite = [
        match("type", "m.room.member"),
        match("content.membership", "invite"),
        match("state_key", user_id),
    ]
    user_mention: JsonObject = {
        "kind": "event_property_contains",
        "key": r"content.m\.mentions.user_ids",
        "value": user_id,
    }
    room_mention: list[JsonObject] = [
        {"kind": "event_property_is", "key": r"content.m\.mentions.room", "value": True},
        {"kind": "sender_notification_permission", "key": "room"},
    ]
    edit: JsonObject = {
        "kind": "event_property_is",
        "key": r"content.m\.relates_to.rel_type",
        "value": "m.replace",
    }
    tombstone = [match("type", "m.room.tombstone"), match("state_key", "")]
    server_acl = [match("type", "m.room.server_acl"), match("state_key", "")]
    message = match("type", "m.room.message")
    encrypted = match("type", "m.room.encrypted")
    return {
        RuleKind.OVERRIDE: (
            rule(_MASTER, [], enabled=False),
            rule(".m.rule.suppress_notices", [match("content.msgtype", "m.notice")]),
            rule(".m.rule.invite_for_me", invite, "notify", default_sound),
            rule(".m.rule.member_event", [match("type", "m.room.member")]),
            rule(".m.rule.is_user_mention", [user_mention], "notify", default_sound, highlight),
            rule(".m.rule.is_room_mention", room_mention, "notify", highlight),
            rule(".m.rule.tombstone", tombstone, "notify", highlight),
            rule(".m.rule.reaction", [match("type", "m.reaction")]),
            rule(".m.rule.room.server_acl", server_acl),
            rule(".m.rule.suppress_edits", [edit]),
        ),
        RuleKind.UNDERRIDE: (
            rule(".m.rule.call", [match("type", "m.call.invite")], "notify", ring),
            rule(".m.rule.encrypted_room_one_to_one", [two_members, encrypted], "notify", default_sound),
            rule(".m.rule.room_one_to_one", [two_members, message], "notify", default_sound),
            rule(".m.rule.message", [message], "notify"),
            rule(".m.rule.encrypted", [encrypted], "notify"),
        ),
    }


_DEFAULTS: Final[Mapping[RuleKey, PushRule]] = {
    (kind, rule.rule_id): rule for kind, rules in default_rules("").items() for rule in rules
}


# --- Looking at rules ----------------------------------------------------------------------------------


def rules_in_order(rules: PushRules, user_id: str) -> dict[RuleKind, tuple[PushRule, ...]]:
    """All rules of the user, by kind and the most important first: kinds and rules as they are checked."""
    defaults = default_rules(user_id)
    merged = {}
    for kind in RuleKind:
        own = rules.own.get(kind, ())
        after = tuple(_current(rules, kind, rule) for rule in defaults.get(kind, ()))
        # The master rule alone goes before what the user has put on top.
        first = after[:1] if after and after[0].rule_id == _MASTER else ()
        merged[kind] = first + own + after[len(first) :]
    return merged


def _current(rules: PushRules, kind: RuleKind, default: PushRule) -> PushRule:
    change = rules.changes.get((kind, default.rule_id))
    return default if change is None else _apply(change, default)


def find_rule(rules: PushRules, user_id: str, kind: RuleKind, rule_id: str) -> PushRule:
    """The rule of this kind and id; raises `RuleNotFound`."""
    for rule in rules_in_order(rules, user_id)[kind]:
        if rule.rule_id == rule_id:
            return rule
    raise RuleNotFound("The push rule was not found.")


def rule_json(kind: RuleKind, rule: PushRule) -> JsonObject:
    """A rule as clients see it."""
    shown: JsonObject = {
        "rule_id": rule.rule_id,
        "default": rule.default,
        "enabled": rule.enabled,
        "actions": list(rule.actions),
    }
    if kind in (RuleKind.OVERRIDE, RuleKind.UNDERRIDE):
        shown["conditions"] = list(rule.conditions)
    elif kind is RuleKind.CONTENT:
        shown["pattern"] = rule.pattern
    return shown


def ruleset(rules: PushRules, user_id: str) -> JsonObject:
    """The whole `global` ruleset as clients see it: for each kind its rules, the most important first."""
    return {
        kind.value: [rule_json(kind, rule) for rule in of_kind]
        for kind, of_kind in rules_in_order(rules, user_id).items()
    }


# --- Editing -------------------------------------------------------------------------------------------


def add_rule(
    rules: PushRules,
    kind: RuleKind,
    rule_id: str,
    body: JsonObject,
    *,
    before: str | None = None,
    after: str | None = None,
) -> PushRules:
    """Make a rule of the user's own from a request body, or give an existing one new parameters.

    `before` puts it next above that rule of the user's, `after` next below; given both, `before` decides.
    Without them a new rule becomes the most important of its kind and an existing one stays in its place.
    A new rule is enabled, an existing one as it was.
    """
    _check_own_rule_id(rule_id)
    own = rules.own.get(kind, ())
    existing = next((rule for rule in own if rule.rule_id == rule_id), None)
    rule = PushRule(
        rule_id,
        _check_actions(body.get("actions")),
        _check_conditions(body.get("conditions", []))
        if kind in (RuleKind.OVERRIDE, RuleKind.UNDERRIDE)
        else (),
        _check_pattern(body.get("pattern")) if kind is RuleKind.CONTENT else "",
        enabled=existing is None or existing.enabled,
    )
    return _within_limits(_with_own(rules, kind, _placed(own, rule, before, after)))


def delete_rule(rules: PushRules, kind: RuleKind, rule_id: str) -> PushRules:
    """Remove a rule of the user's own; default rules can only be disabled."""
    if (kind, rule_id) in _DEFAULTS:
        raise InvalidRule("A server-default push rule cannot be deleted; it can be disabled.")
    own = rules.own.get(kind, ())
    kept = tuple(rule for rule in own if rule.rule_id != rule_id)
    if len(kept) == len(own):
        raise RuleNotFound("The push rule was not found.")
    return _with_own(rules, kind, kept)


def set_enabled(rules: PushRules, kind: RuleKind, rule_id: str, enabled: object) -> PushRules:
    """Switch any rule on or off; `enabled` is as it came in the request."""
    if not isinstance(enabled, bool):
        raise InvalidRule("'enabled' must be true or false.")
    return _amended(rules, kind, rule_id, Change(enabled=enabled))


def set_actions(rules: PushRules, kind: RuleKind, rule_id: str, actions: object) -> PushRules:
    """Give any rule other actions; they are as they came in the request."""
    return _within_limits(_amended(rules, kind, rule_id, Change(actions=_check_actions(actions))))


def _amended(rules: PushRules, kind: RuleKind, rule_id: str, change: Change) -> PushRules:
    default = _DEFAULTS.get((kind, rule_id))
    if default is not None:
        return _with_changed_default(rules, kind, _apply(change, _current(rules, kind, default)))
    own = rules.own.get(kind, ())
    if all(rule.rule_id != rule_id for rule in own):
        raise RuleNotFound("The push rule was not found.")
    return _with_own(
        rules, kind, tuple(_apply(change, rule) if rule.rule_id == rule_id else rule for rule in own)
    )


def _apply(change: Change, rule: PushRule) -> PushRule:
    return replace(
        rule,
        enabled=rule.enabled if change.enabled is None else change.enabled,
        actions=rule.actions if change.actions is None else change.actions,
    )


def _with_own(rules: PushRules, kind: RuleKind, own: tuple[PushRule, ...]) -> PushRules:
    others = {other: kept for other, kept in rules.own.items() if other is not kind}
    return replace(rules, own={**others, kind: own} if own else others)


def _with_changed_default(rules: PushRules, kind: RuleKind, rule: PushRule) -> PushRules:
    """Keep of this default rule only what differs from the default, so that undoing a change leaves none."""
    key = (kind, rule.rule_id)
    default = _DEFAULTS[key]
    change = Change(
        enabled=None if rule.enabled == default.enabled else rule.enabled,
        actions=None if rule.actions == default.actions else rule.actions,
    )
    others = {other: kept for other, kept in rules.changes.items() if other != key}
    return replace(rules, changes=others if change == Change() else {**others, key: change})


def _placed(
    own: tuple[PushRule, ...], rule: PushRule, before: str | None, after: str | None
) -> tuple[PushRule, ...]:
    others = [other for other in own if other.rule_id != rule.rule_id]
    anchor = after if before is None else before
    if anchor is None:
        if len(others) == len(own):
            return (rule, *own)
        return tuple(rule if other.rule_id == rule.rule_id else other for other in own)
    at = next((n for n, other in enumerate(others) if other.rule_id == anchor), None)
    if at is None:
        raise UnknownAnchor(f"before/after rule not found: {anchor[:MAX_RULE_ID_BYTES]}")
    others.insert(at if before is not None else at + 1, rule)
    return tuple(others)


# --- The stored form -----------------------------------------------------------------------------------


def stored_content(rules: PushRules) -> JsonObject:
    """What to store of these rules: `m.push_rules` content with the user's own rules and changes only."""
    kinds: dict[str, list[JsonObject]] = {
        kind.value: [rule_json(kind, rule) for rule in rules.own.get(kind, ())] for kind in RuleKind
    }
    for (kind, rule_id), change in rules.changes.items():
        entry: JsonObject = {"rule_id": rule_id, "default": True}
        if change.enabled is not None:
            entry["enabled"] = change.enabled
        if change.actions is not None:
            entry["actions"] = list(change.actions)
        kinds[kind.value].append(entry)
    return {"global": kinds}


def parse_stored(content: object) -> PushRules:
    """The rules in stored content, or in the complete content another server gave out.

    Lenient, for what was once accepted must not lock its user out: an entry that is no rule is passed over,
    and so is a default rule that there no longer is.
    """
    rules = PushRules()
    scope = content.get("global") if isinstance(content, dict) else None
    for kind in RuleKind:
        own: dict[str, PushRule] = {}
        for entry in _list(scope.get(kind.value) if isinstance(scope, dict) else None):
            rule_id = entry.get("rule_id") if isinstance(entry, dict) else None
            if not isinstance(rule_id, str):
                continue
            enabled, actions = entry.get("enabled"), entry.get("actions")
            change = Change(
                enabled=enabled if isinstance(enabled, bool) else None,
                actions=_known_actions(actions) if isinstance(actions, list) else None,
            )
            if (default := _DEFAULTS.get((kind, rule_id))) is not None:
                rules = _with_changed_default(rules, kind, _apply(change, default))
            elif not rule_id.startswith(".") and (rule := _parse_own(rule_id, entry)) is not None:
                own.setdefault(rule_id, _apply(change, rule))
        rules = _with_own(rules, kind, tuple(own.values()))
    return rules


def _parse_own(rule_id: str, entry: JsonObject) -> PushRule | None:
    conditions, pattern = entry.get("conditions", []), entry.get("pattern", "")
    # A rule is dropped rather than one of its conditions, which would make it match more.
    well_formed = isinstance(conditions, list) and all(_is_condition(condition) for condition in conditions)
    if not (well_formed and isinstance(pattern, str) and isinstance(entry.get("actions"), list)):
        return None
    return PushRule(rule_id, (), tuple(conditions), pattern)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_condition(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("kind"), str)


def _known_actions(actions: list[Any]) -> tuple[Action, ...]:
    return tuple(action for action in actions if _is_action(action))


def _is_action(action: object) -> bool:
    # Historical actions mean nothing, but clients find their own rules again by them.
    if isinstance(action, str):
        return action == "notify" or action in _HISTORICAL_ACTIONS
    return isinstance(action, dict) and isinstance(action.get("set_tweak"), str)


# --- Checks of what a request brings -------------------------------------------------------------------


def _check_own_rule_id(rule_id: str) -> None:
    # Room and sender rules are named by a room or user id; one that is neither matches nothing, harmlessly.
    if rule_id.startswith("."):
        raise InvalidRule("A rule_id that starts with '.' is reserved for server-default rules.")
    if not rule_id or "/" in rule_id or "\\" in rule_id:
        raise InvalidRule("A rule_id must not be empty or contain slashes or backslashes.")
    if len(rule_id.encode(errors="replace")) > MAX_RULE_ID_BYTES:
        raise InvalidRule(f"A rule_id is at most {MAX_RULE_ID_BYTES} bytes long.")


def _check_actions(actions: object) -> tuple[Action, ...]:
    if not isinstance(actions, list) or len(actions) > MAX_ACTIONS:
        raise InvalidRule(f"'actions' must be a list of at most {MAX_ACTIONS} actions.")
    if not all(_is_action(action) for action in actions):
        raise InvalidRule("An action is 'notify' or an object with 'set_tweak'.")
    return _known_actions(actions)


def _check_pattern(pattern: object) -> str:
    if not isinstance(pattern, str) or not 0 < len(pattern) <= MAX_STRING_LENGTH:
        raise InvalidRule(f"A content rule needs a 'pattern' of 1 to {MAX_STRING_LENGTH} characters.")
    return pattern


def _check_conditions(conditions: object) -> tuple[JsonObject, ...]:
    if not isinstance(conditions, list) or len(conditions) > MAX_CONDITIONS:
        raise InvalidRule(f"'conditions' must be a list of at most {MAX_CONDITIONS} conditions.")
    for condition in conditions:
        if not _is_condition(condition):
            raise InvalidRule("A condition is an object with a 'kind'.")
        # Kinds that are not known here are kept for clients; they match nothing.
        for parameter, is_valid in _PARAMETERS.get(condition["kind"], {}).items():
            if parameter not in condition or not is_valid(condition[parameter]):
                raise InvalidRule(f"A condition of kind {condition['kind']} needs a valid '{parameter}'.")
    return tuple(conditions)


def _is_string(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_STRING_LENGTH


def _is_scalar(value: object) -> bool:
    if isinstance(value, int):
        return abs(value) <= MAX_EXACT_INTEGER
    return value is None or _is_string(value)


def _is_member_count(value: object) -> bool:
    return isinstance(value, str) and MEMBER_COUNT.fullmatch(value) is not None


_PARAMETERS: Final[Mapping[str, Mapping[str, Callable[[object], bool]]]] = {
    "event_match": {"key": _is_string, "pattern": _is_string},
    "event_property_is": {"key": _is_string, "value": _is_scalar},
    "event_property_contains": {"key": _is_string, "value": _is_scalar},
    "room_member_count": {"is": _is_member_count},
    "sender_notification_permission": {"key": _is_string},
}


def _within_limits(rules: PushRules) -> PushRules:
    if any(len(own) > MAX_RULES_PER_KIND for own in rules.own.values()):
        raise TooManyRules(f"There can be at most {MAX_RULES_PER_KIND} push rules of a kind.")
    if sum(_searches(kind, rule) for kind, own in rules.own.items() for rule in own) > MAX_SEARCHES:
        raise TooManyRules(
            f"There can be at most {MAX_SEARCHES} patterns that search through texts; one with '?' counts "
            f"as {SEARCHES_OF_A_QUESTION_MARK}."
        )
    try:
        size = len(orjson.dumps(stored_content(rules)))
    except orjson.JSONEncodeError as error:
        raise InvalidRule("The push rule is not valid JSON for storage.") from error
    if size > MAX_RULESET_BYTES:
        raise TooManyRules(f"Push rules can take at most {MAX_RULESET_BYTES} bytes together.")
    return rules


def _searches(kind: RuleKind, rule: PushRule) -> int:
    """How many searches through a text the rule counts for."""
    if kind is RuleKind.CONTENT:
        return _searches_of(rule.pattern)
    searches = 0
    for condition in rule.conditions:
        match condition:
            case {"kind": "contains_display_name"}:
                searches += 1
            case {"kind": "event_match", "key": key, "pattern": str(pattern)}:
                if key == "content.body" or "*" in pattern or "?" in pattern:
                    searches += _searches_of(pattern)
    return searches


def _searches_of(pattern: str) -> int:
    return SEARCHES_OF_A_QUESTION_MARK if "?" in pattern else 1
