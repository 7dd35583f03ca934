"""Push rules as they are stored: `m.push_rules` content, reduced to what the user made of it."""

from typing import Any

from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.predefined_push_rules import DEFAULT_RULES, with_changed_default
from homeserver.protocol.push_rules import Change, PushRule, PushRules, RuleKind, is_action, is_condition
from homeserver.protocol.push_ruleset import rule_json


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
                actions=tuple(filter(is_action, actions)) if isinstance(actions, list) else None,
            )
            if (default := DEFAULT_RULES.get((kind, rule_id))) is not None:
                rules = with_changed_default(rules, kind, change.applied_to(default))
            elif not rule_id.startswith(".") and (rule := _parse_own(rule_id, entry)) is not None:
                own.setdefault(rule_id, change.applied_to(rule))
        rules = rules.with_own(kind, tuple(own.values()))
    return rules


def _parse_own(rule_id: str, entry: JsonObject) -> PushRule | None:
    conditions, pattern = entry.get("conditions", []), entry.get("pattern", "")
    # A rule is dropped rather than one of its conditions, which would make it match more.
    well_formed = isinstance(conditions, list) and all(is_condition(condition) for condition in conditions)
    if not (well_formed and isinstance(pattern, str) and isinstance(entry.get("actions"), list)):
        return None
    return PushRule(rule_id, (), tuple(conditions), pattern)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
