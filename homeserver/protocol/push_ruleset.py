"""All push rules of a user: the predefined and their own, as they are checked and as clients see them."""

from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.predefined_push_rules import MASTER, current, default_rules
from homeserver.protocol.push_rules import PushRule, PushRules, RuleKind, RuleNotFound


def rules_in_order(rules: PushRules, user_id: str) -> dict[RuleKind, tuple[PushRule, ...]]:
    """All rules of the user, by kind and the most important first: kinds and rules as they are checked."""
    defaults = default_rules(user_id)
    merged = {}
    for kind in RuleKind:
        own = rules.own.get(kind, ())
        after = tuple(current(rules, kind, rule) for rule in defaults.get(kind, ()))
        # The master rule alone goes before what the user has put on top.
        first = after[:1] if after and after[0].rule_id == MASTER else ()
        merged[kind] = first + own + after[len(first) :]
    return merged


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
