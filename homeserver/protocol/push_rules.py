"""A user's push rules as a value (spec: client-server "Push Rules").

`PushRules` holds only what the user made of it: rules of their own and the changes to default rules
(`predefined_push_rules`). So a default that a later version of the specification alters reaches everyone
who left it alone. `push_ruleset` merges the two into what clients see, `push_rule_edits` is how the user
changes them, `stored_push_rules` how they are kept, `push_evaluation` what they say about an event.

    PushRuleError            what a route answers with: `status`, `errcode` and the message
    ├── RuleNotFound         404 M_NOT_FOUND
    ├── InvalidRule          400 M_INVALID_PARAM
    ├── UnknownAnchor        400 M_UNKNOWN: `before` or `after` names no rule of the user
    └── TooManyRules         413 M_TOO_LARGE
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar, Final

from homeserver.protocol.json_types import JsonObject

MAX_STRING_LENGTH: Final = 512
"""Characters of a pattern, a property path or a value to compare with."""
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

    def applied_to(self, rule: PushRule) -> PushRule:
        """The rule with what was changed."""
        return replace(
            rule,
            enabled=rule.enabled if self.enabled is None else self.enabled,
            actions=rule.actions if self.actions is None else self.actions,
        )


RuleKey = tuple[RuleKind, str]


@dataclass(frozen=True, slots=True)
class PushRules:
    """What one user made of their push rules. The empty value stands for the defaults as they are."""

    own: Mapping[RuleKind, tuple[PushRule, ...]] = field(default_factory=dict)
    """The user's own rules, the most important first."""
    changes: Mapping[RuleKey, Change] = field(default_factory=dict)

    def with_own(self, kind: RuleKind, own: tuple[PushRule, ...]) -> "PushRules":
        """With these as the user's own rules of a kind."""
        others = {other: kept for other, kept in self.own.items() if other is not kind}
        return replace(self, own={**others, kind: own} if own else others)


def is_condition(value: object) -> bool:
    """Whether it has the form of one; its kind may be unknown here."""
    return isinstance(value, dict) and isinstance(value.get("kind"), str)


def is_action(action: object) -> bool:
    """Whether it has the form of one."""
    # Historical actions mean nothing, but clients find their own rules again by them.
    if isinstance(action, str):
        return action == "notify" or action in _HISTORICAL_ACTIONS
    return isinstance(action, dict) and isinstance(action.get("set_tweak"), str)
