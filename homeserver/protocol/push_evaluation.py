"""What push rules say about an event: for one user, and for all who kept the defaults at once.

See client-server, "Push Rules". A message in a room of a thousand is not a thousand evaluations:

* `EventFacts` holds one event and what of its room the rules ask about. Whatever a rule has to work out
  of it (a property, its folded form, the words of the body) is worked out once, for all members.
* `compile_rules` makes a user's rules ready once per edit. A rule that is confined to a room costs nothing
  in others, and a default rule is compiled once for everybody.
* A default rule says either something about everyone or something about the users that the event itself
  names (the invited, the mentioned). So `evaluate_defaults` walks them once and gives one verdict for all
  and the few that differ. It serves each user for whom `CompiledRules.is_default_in(room)` holds; the
  others are put to `evaluate` one by one.

All is lenient: a condition that is not understood, or has broken parameters, holds for no event.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from homeserver.protocol.globs import WordText, compile_glob, compile_word_glob, fold
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.predefined_push_rules import default_rules
from homeserver.protocol.push_rules import (
    MAX_EXACT_INTEGER,
    MEMBER_COUNT,
    Action,
    PushRule,
    PushRules,
    RuleKey,
    RuleKind,
)
from homeserver.protocol.push_ruleset import rules_in_order

DEFAULT_NOTIFICATION_LEVEL: Final = 50
"""The power level to trigger a kind of notification that the room's power levels do not mention."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an event for one user: the actions of the rule that matched, and what they mean."""

    notify: bool
    highlight: bool
    """True only of events that notify, as is `sound`."""
    sound: str | None
    actions: tuple[Action, ...]
    tweaks: JsonObject
    """For the push gateway: tweak name to value."""


def _verdict(actions: tuple[Action, ...]) -> Verdict:
    notify = "notify" in actions
    tweaks: JsonObject = {}
    if notify:
        for action in actions:
            if isinstance(action, dict):
                if "value" in action:
                    tweaks[action["set_tweak"]] = action["value"]
                elif action["set_tweak"] == "highlight":
                    tweaks["highlight"] = True
    sound = tweaks.get("sound")
    return Verdict(
        notify, tweaks.get("highlight") is True, sound if isinstance(sound, str) else None, actions, tweaks
    )


SILENT: Final = _verdict(())
"""The verdict where no rule matches, and on a user's own events."""


# --- Facts ---------------------------------------------------------------------------------------------

_ABSENT: Final = object()

Path = tuple[str, ...]
"""The names that lead to a property of an event."""
_BODY: Final[Path] = ("content", "body")
_ROOM_ID: Final[Path] = ("room_id",)


def _comparable(value: object) -> object:
    """A string, null, boolean or integer in a form that equals only its like; anything else is `_ABSENT`."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return (value,)  # For Python `True == 1`, for the specification it does not.
    if isinstance(value, int) and abs(value) <= MAX_EXACT_INTEGER:
        return value
    return _ABSENT


class EventFacts:
    """One event and what of its room the rules ask about, shared by the evaluations for all its members.

    `event` is the event as clients see it, `room_id` included. The rest is of the state at the event:
    `member_count` of joined members, `sender_level` the sender's power (infinite for a creator above all
    levels), `notification_levels` the integers in `notifications` of `m.room.power_levels`.
    """

    __slots__ = (
        "_elements",
        "_event",
        "_holds",
        "_texts",
        "_words",
        "member_count",
        "notification_levels",
        "sender_level",
    )

    def __init__(
        self,
        event: JsonObject,
        *,
        member_count: int,
        sender_level: float,
        notification_levels: Mapping[str, int],
    ) -> None:
        self._event = event
        self.member_count = member_count
        self.sender_level = sender_level
        self.notification_levels = notification_levels
        # Only what the event has is remembered, so that its own size bounds what is kept.
        self._texts: dict[Path, str] = {}
        self._elements: dict[Path, frozenset[object]] = {}
        self._words: WordText | None = None
        self._holds: dict[_CompiledRule, bool] = {}

    @property
    def room_id(self) -> str:
        room_id: str = self._event["room_id"]
        return room_id

    @property
    def sender(self) -> str:
        sender: str = self._event["sender"]
        return sender

    def value(self, path: Path) -> object:
        """The property at this path, or `_ABSENT`."""
        value: object = self._event
        for name in path:
            if not isinstance(value, dict) or name not in value:
                return _ABSENT
            value = value[name]
        return value

    def text(self, path: Path) -> str | None:
        """The property without differences of case, if it is a string."""
        text = self._texts.get(path)
        if text is None:
            value = self.value(path)
            if isinstance(value, str):
                text = self._texts[path] = fold(value)
        return text

    def elements(self, path: Path) -> frozenset[object]:
        """The comparable elements of the property; none if it is no array."""
        elements = self._elements.get(path)
        if elements is None:
            value = self.value(path)
            if not isinstance(value, list):
                return frozenset()
            elements = self._elements[path] = frozenset(map(_comparable, value))
        return elements

    def words(self) -> WordText | None:
        """The body ready for word searches, if it is a string."""
        if self._words is None:
            body = self.value(_BODY)
            if isinstance(body, str):
                self._words = WordText(body)
        return self._words

    def holds(self, default_rule: "_CompiledRule") -> bool:
        """Whether a default rule holds apart from what depends on the user, worked out once for all."""
        known = self._holds.get(default_rule)
        if known is None:
            known = self._holds[default_rule] = default_rule.holds(self)
        return known


# --- Conditions ----------------------------------------------------------------------------------------

Test = Callable[[EventFacts], bool]
Names = Callable[[EventFacts], frozenset[object]]


@dataclass(frozen=True, slots=True)
class _Condition:
    """A compiled condition: one of the three ways in which it can depend on the user."""

    test: Test | None = None
    """It does not: it holds for everyone or for no one."""
    names: Names | None = None
    """It holds for the users whose ids the event gives in some place."""
    display_name: bool = False
    """It holds for the users whose display name the body contains."""
    room: str | None = None
    """The folded id of the one room where it can hold."""


_NEVER: Final = _Condition(test=lambda facts: False)


def _compile_condition(condition: JsonObject, user_id: str) -> _Condition:
    match condition:
        case {"kind": "event_match", "key": str(key), "pattern": str(pattern)}:
            return _event_match(parse_path(key), pattern, user_id)
        case {"kind": "event_property_is", "key": str(key), "value": value}:
            return _event_property_is(parse_path(key), _comparable(value))
        case {"kind": "event_property_contains", "key": str(key), "value": value}:
            return _event_property_contains(parse_path(key), _comparable(value), user_id)
        case {"kind": "room_member_count", "is": str(comparison)}:
            return _room_member_count(comparison)
        case {"kind": "sender_notification_permission", "key": str(key)}:
            return _sender_notification_permission(key)
        case {"kind": "contains_display_name"}:
            return _Condition(display_name=True)
    return _NEVER


def parse_path(key: str) -> Path:
    r"""The property names of a dot-separated path, in which `\.` and `\\` stand for `.` and `\` in a name."""
    # spec: appendices#dot-separated-property-paths
    names: list[str] = []
    name: list[str] = []
    characters = iter(key)
    for character in characters:
        if character == "\\":
            escaped = next(characters, "")
            name.append(escaped if escaped in (".", "\\") else "\\" + escaped)
        elif character == ".":
            names.append("".join(name))
            name.clear()
        else:
            name.append(character)
    return (*names, "".join(name))


def _event_match(path: Path, pattern: str, user_id: str) -> _Condition:
    if path == _BODY:
        return _body_match(pattern)
    if pattern == user_id:
        # Two ids that differ in case are two users, and an id is no glob even where it contains a `*`.
        return _Condition(names=lambda facts: frozenset({_comparable(facts.value(path))}))
    folded = fold(pattern)
    if "*" in folded or "?" in folded:
        matches = compile_glob(folded)
        return _Condition(test=lambda facts: (text := facts.text(path)) is not None and matches(text))
    return _Condition(
        test=lambda facts: facts.text(path) == folded, room=folded if path == _ROOM_ID else None
    )


def _body_match(pattern: str) -> _Condition:
    found_in = compile_word_glob(pattern)
    return _Condition(test=lambda facts: (words := facts.words()) is not None and found_in(words))


def _event_property_is(path: Path, wanted: object) -> _Condition:
    if wanted is _ABSENT:
        return _NEVER
    return _Condition(test=lambda facts: _comparable(facts.value(path)) == wanted)


def _event_property_contains(path: Path, wanted: object, user_id: str) -> _Condition:
    if wanted is _ABSENT:
        return _NEVER
    if wanted == user_id:
        return _Condition(names=lambda facts: facts.elements(path))
    return _Condition(test=lambda facts: wanted in facts.elements(path))


def _room_member_count(comparison: str) -> _Condition:
    parsed = MEMBER_COUNT.fullmatch(comparison)
    if parsed is None:
        return _NEVER
    compare, number = _COMPARISONS[parsed[1] or "=="], int(parsed[2])
    return _Condition(test=lambda facts: compare(facts.member_count, number))


_COMPARISONS: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def _sender_notification_permission(key: str) -> _Condition:
    return _Condition(
        test=lambda facts: (
            facts.sender_level >= facts.notification_levels.get(key, DEFAULT_NOTIFICATION_LEVEL)
        )
    )


# --- Rules ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _CompiledRule:
    tests: tuple[Test, ...]
    names: tuple[Names, ...]
    display_name: bool
    room: str | None
    verdict: Verdict
    shared: bool
    """It is one of `_DEFAULTS`, the same for all users."""

    def holds(self, facts: EventFacts) -> bool:
        """Whether all holds that does not depend on the user."""
        for test in self.tests:  # noqa: SIM110 - all() over a generator doubles the cost of this loop
            if not test(facts):
                return False
        return True

    def means(self, facts: EventFacts, user_id: str, display_name: str | None) -> bool:
        """Whether all holds that depends on the user."""
        for names in self.names:
            if user_id not in names(facts):
                return False
        if not self.display_name:
            return True
        words = facts.words()
        return words is not None and display_name is not None and words.contains(display_name)


def _compile_rule(kind: RuleKind, rule: PushRule, user_id: str, *, shared: bool = False) -> _CompiledRule:
    rule_id = rule.rule_id
    match kind:
        case RuleKind.CONTENT:
            conditions = [_body_match(rule.pattern)]
        case RuleKind.ROOM:
            conditions = [_Condition(test=lambda facts: facts.room_id == rule_id, room=fold(rule_id))]
        case RuleKind.SENDER:
            conditions = [_Condition(test=lambda facts: facts.sender == rule_id)]
        case _:
            conditions = [_compile_condition(condition, user_id) for condition in rule.conditions]
    return _CompiledRule(
        tests=tuple(condition.test for condition in conditions if condition.test is not None),
        names=tuple(condition.names for condition in conditions if condition.names is not None),
        display_name=any(condition.display_name for condition in conditions),
        room=next((condition.room for condition in conditions if condition.room is not None), None),
        verdict=_verdict(rule.actions),
        shared=shared,
    )


_ANYONE: Final = "@"
"""Stands for the user when the default rules are compiled for all; no user has this id."""
_DEFAULTS: Final[Mapping[RuleKey, _CompiledRule]] = {
    (kind, rule.rule_id): _compile_rule(kind, rule, _ANYONE, shared=True)
    for kind, rules in default_rules(_ANYONE).items()
    for rule in rules
    if rule.enabled
}
_DEFAULT_RULES: Final = tuple(_DEFAULTS.values())


class CompiledRules:
    """The enabled rules of one user, ready for `evaluate`. Make it with `compile_rules`."""

    __slots__ = ("_anywhere", "_confined", "needs_display_name", "user_id")

    def __init__(self, user_id: str, rules: Iterable[_CompiledRule]) -> None:
        self.user_id = user_id
        self.needs_display_name = False
        """Whether a verdict can depend on the user's display name in the room."""
        anywhere: list[_CompiledRule] = []
        # By folded room id: each rule with its place among those that can match anywhere.
        self._confined: dict[str, list[tuple[int, _CompiledRule]]] = {}
        for rule in rules:
            self.needs_display_name |= rule.display_name
            if rule.room is None:
                anywhere.append(rule)
            else:
                self._confined.setdefault(rule.room, []).append((len(anywhere), rule))
        self._anywhere = tuple(anywhere)
        if self._anywhere == _DEFAULT_RULES:
            self._anywhere = _DEFAULT_RULES

    def is_default_in(self, room_id: str) -> bool:
        """Whether the user's verdicts on events of this room are those of `evaluate_defaults`."""
        if self._anywhere is not _DEFAULT_RULES:
            return False
        return not self._confined or fold(room_id) not in self._confined

    def in_room(self, room_id: str) -> Sequence[_CompiledRule]:
        """The rules that can match in this room, in the order in which they are checked."""
        confined = self._confined.get(fold(room_id)) if self._confined else None
        if confined is None:
            return self._anywhere
        rules = list(self._anywhere)
        for place, rule in reversed(confined):
            rules.insert(place, rule)
        return rules


def compile_rules(rules: PushRules, user_id: str) -> CompiledRules:
    """Make the rules of this user ready; to be kept until they are edited."""
    return CompiledRules(
        user_id,
        [
            _DEFAULTS[kind, rule.rule_id]
            if rule.default and (kind, rule.rule_id) not in rules.changes
            else _compile_rule(kind, rule, user_id)
            for kind, of_kind in rules_in_order(rules, user_id).items()
            for rule in of_kind
            if rule.enabled
        ],
    )


# --- Evaluating ----------------------------------------------------------------------------------------


def evaluate(compiled: CompiledRules, facts: EventFacts, display_name: str | None = None) -> Verdict:
    """What becomes of the event for this user: the verdict of the first rule that matches.

    `display_name` is the user's in that room; it is asked for only where `compiled.needs_display_name`.
    """
    user_id = compiled.user_id
    if user_id == facts.sender:
        return SILENT
    for rule in compiled.in_room(facts.room_id):
        held = facts.holds(rule) if rule.shared else rule.holds(facts)
        if held and rule.means(facts, user_id, display_name):
            return rule.verdict
    return SILENT


@dataclass(frozen=True, slots=True)
class SharedVerdict:
    """What becomes of one event for all users who kept the default rules."""

    base: Verdict
    """For everyone else."""
    singled_out: Mapping[str, Verdict]
    """For those whom the event names, and its sender; not all of them need be users or in the room."""

    def of(self, user_id: str) -> Verdict:
        return self.singled_out.get(user_id, self.base)


def evaluate_defaults(facts: EventFacts) -> SharedVerdict:
    """The verdicts of the default rules for every user, in one pass over the rules.

    A rule that names users settles the matter for them alone, unless an earlier one has; the first that
    names nobody settles it for all the others.
    """
    singled_out = {facts.sender: SILENT}
    for rule in _DEFAULT_RULES:
        if not facts.holds(rule):
            continue
        if not rule.names:
            return SharedVerdict(rule.verdict, singled_out)
        for user_id in frozenset.intersection(*(names(facts) for names in rule.names)):
            if isinstance(user_id, str):
                singled_out.setdefault(user_id, rule.verdict)
    return SharedVerdict(SILENT, singled_out)
