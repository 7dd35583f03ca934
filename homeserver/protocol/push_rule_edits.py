"""Editing push rules (spec: client-server "Push Rules: API").

An edit gives a new value, or raises a `PushRuleError` and changes nothing.
"""

from collections.abc import Callable, Mapping
from typing import Final

import orjson

from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.predefined_push_rules import DEFAULT_RULES, current, with_changed_default
from homeserver.protocol.push_rules import (
    MAX_EXACT_INTEGER,
    MAX_STRING_LENGTH,
    MEMBER_COUNT,
    Action,
    Change,
    InvalidRule,
    PushRule,
    PushRules,
    RuleKind,
    RuleNotFound,
    TooManyRules,
    UnknownAnchor,
    is_action,
    is_condition,
)
from homeserver.protocol.stored_push_rules import stored_content

MAX_RULES_PER_KIND: Final = 2_000
MAX_RULESET_BYTES: Final = 512 * 1024
MAX_SEARCHES: Final = 100
"""How many of a user's patterns may search through a text rather than be compared with it. This bounds what
one user's rules can cost per event, whose body may be 64 KiB long."""
SEARCHES_OF_A_QUESTION_MARK: Final = 10
"""What a pattern with `?` counts for: its engine is slower, some milliseconds for the longest body."""
MAX_CONDITIONS: Final = 32
MAX_ACTIONS: Final = 16
MAX_RULE_ID_BYTES: Final = 255


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
    return _within_limits(rules.with_own(kind, _placed(own, rule, before, after)))


def delete_rule(rules: PushRules, kind: RuleKind, rule_id: str) -> PushRules:
    """Remove a rule of the user's own; default rules can only be disabled."""
    if (kind, rule_id) in DEFAULT_RULES:
        raise InvalidRule("A server-default push rule cannot be deleted; it can be disabled.")
    own = rules.own.get(kind, ())
    kept = tuple(rule for rule in own if rule.rule_id != rule_id)
    if len(kept) == len(own):
        raise RuleNotFound("The push rule was not found.")
    return rules.with_own(kind, kept)


def set_enabled(rules: PushRules, kind: RuleKind, rule_id: str, enabled: object) -> PushRules:
    """Switch any rule on or off; `enabled` is as it came in the request."""
    if not isinstance(enabled, bool):
        raise InvalidRule("'enabled' must be true or false.")
    return _amended(rules, kind, rule_id, Change(enabled=enabled))


def set_actions(rules: PushRules, kind: RuleKind, rule_id: str, actions: object) -> PushRules:
    """Give any rule other actions; they are as they came in the request."""
    return _within_limits(_amended(rules, kind, rule_id, Change(actions=_check_actions(actions))))


def _amended(rules: PushRules, kind: RuleKind, rule_id: str, change: Change) -> PushRules:
    default = DEFAULT_RULES.get((kind, rule_id))
    if default is not None:
        return with_changed_default(rules, kind, change.applied_to(current(rules, kind, default)))
    own = rules.own.get(kind, ())
    if all(rule.rule_id != rule_id for rule in own):
        raise RuleNotFound("The push rule was not found.")
    return rules.with_own(
        kind, tuple(change.applied_to(rule) if rule.rule_id == rule_id else rule for rule in own)
    )


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
    if not all(is_action(action) for action in actions):
        raise InvalidRule("An action is 'notify' or an object with 'set_tweak'.")
    return tuple(actions)


def _check_pattern(pattern: object) -> str:
    if not isinstance(pattern, str) or not 0 < len(pattern) <= MAX_STRING_LENGTH:
        raise InvalidRule(f"A content rule needs a 'pattern' of 1 to {MAX_STRING_LENGTH} characters.")
    return pattern


def _check_conditions(conditions: object) -> tuple[JsonObject, ...]:
    if not isinstance(conditions, list) or len(conditions) > MAX_CONDITIONS:
        raise InvalidRule(f"'conditions' must be a list of at most {MAX_CONDITIONS} conditions.")
    for condition in conditions:
        if not is_condition(condition):
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
