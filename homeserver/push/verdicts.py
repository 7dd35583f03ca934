"""What an event means to the members of its room, worked out once per event for all of them."""

from collections import OrderedDict
from typing import NamedTuple

import orjson

from homeserver.protocol.power_levels import parse_level
from homeserver.protocol.push_evaluation import (
    CompiledRules,
    EventFacts,
    SharedVerdict,
    Verdict,
    evaluate,
    evaluate_defaults,
)
from homeserver.rooms.redaction import power_levels
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent

KEPT = 2_000


class _Judged(NamedTuple):
    """An event as the rules look at it: what is the same for all users."""

    front: bytes
    """Its form for clients; a redaction changes it."""
    facts: EventFacts
    shared: SharedVerdict


class Verdicts:
    """Evaluates events; the last ones are kept, since all members of a room ask for the same."""

    def __init__(self) -> None:
        self._judged: OrderedDict[str, _Judged] = OrderedDict()

    def of(self, room: Room, event: RoomEvent, rules: CompiledRules) -> Verdict:
        """What becomes of an event of the room for the user with these rules."""
        judged = self._known(room, event)
        if rules.is_default_in(room.room_id):
            return judged.shared.of(rules.user_id)
        display_name: str | None = None
        if rules.needs_display_name:
            name = room.state_content("m.room.member", rules.user_id).get("displayname")
            display_name = name if isinstance(name, str) else None
        return evaluate(rules, judged.facts, display_name)

    def shared(self, room: Room, event: RoomEvent) -> SharedVerdict:
        """What becomes of an event of the room for those with the default rules."""
        return self._known(room, event).shared

    def _known(self, room: Room, event: RoomEvent) -> _Judged:
        judged = self._judged.get(event.event_id)
        if judged is None or judged.front != event.front:
            judged = _judge(room, event)
            self._judged[event.event_id] = judged
            if len(self._judged) > KEPT:
                self._judged.popitem(last=False)
        return judged


def _judge(room: Room, event: RoomEvent) -> _Judged:
    shown = orjson.loads(event.without_unsigned())
    shown["room_id"] = room.room_id
    levels = power_levels(room.version, room.head.lookup)
    notifications = room.state_content("m.room.power_levels").get("notifications")
    facts = EventFacts(
        shown,
        member_count=len(room.joined),
        sender_level=levels.user_level(event.sender),
        notification_levels={
            key: level
            for key, value in (notifications if isinstance(notifications, dict) else {}).items()
            if (level := parse_level(room.version, value)) is not None
        },
    )
    return _Judged(event.front, facts, evaluate_defaults(facts))
