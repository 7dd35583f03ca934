"""The push rules that everyone has (spec: client-server "Predefined Rules")."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.push_rules import Action, Change, PushRule, PushRules, RuleKey, RuleKind

MASTER: Final = ".m.rule.master"


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
            rule(MASTER, [], enabled=False),
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


DEFAULT_RULES: Final[Mapping[RuleKey, PushRule]] = {
    (kind, rule.rule_id): rule for kind, rules in default_rules("").items() for rule in rules
}


def current(rules: PushRules, kind: RuleKind, default: PushRule) -> PushRule:
    """A predefined rule as the user has it."""
    change = rules.changes.get((kind, default.rule_id))
    return default if change is None else change.applied_to(default)


def with_changed_default(rules: PushRules, kind: RuleKind, rule: PushRule) -> PushRules:
    """Keep of this default rule only what differs from the default, so that undoing a change leaves none."""
    key = (kind, rule.rule_id)
    default = DEFAULT_RULES[key]
    change = Change(
        enabled=None if rule.enabled == default.enabled else rule.enabled,
        actions=None if rule.actions == default.actions else rule.actions,
    )
    others = {other: kept for other, kept in rules.changes.items() if other != key}
    return replace(rules, changes=others if change == Change() else {**others, key: change})
