"""What a room's `m.room.power_levels` event means (spec: client-server#mroompower_levels, rooms).

A view over the event's content: nothing is copied, defaults are filled in when asked. In room versions
before 10 a level may also be a string that spells an integer, and before 6 a float, which is cut off
at the point; from 10 on only integers count, and the authorisation rules refuse the rest.

From room version 12 on the creators of a room stand above every level that can be written down.
"""

import math
import re
from collections.abc import Mapping
from typing import Protocol

from homeserver.protocol.json_types import JsonObject, JsonValue
from homeserver.protocol.room_versions import RoomVersion

CREATOR_LEVEL = 2**53
"""The level of those whom no level reaches: one above the greatest integer that an event can hold."""

_NAMED_DEFAULTS = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "redact": 50,
    "kick": 50,
    "invite": 0,
}
NAMED_LEVELS = tuple(_NAMED_DEFAULTS)
"""The levels that stand directly in the content."""
_MAPS = ("users", "events", "notifications")
"""Where levels stand by user, event type and kind of notification."""

_SPELLED_INTEGER = re.compile(r"[+-]?[0-9]{1,1000}")


class CreateLike(Protocol):
    """What is needed to know of a create event."""

    @property
    def sender(self) -> str: ...
    @property
    def content(self) -> JsonObject: ...


def parse_level(version: RoomVersion, value: JsonValue) -> int | None:
    """The level that a value of the content stands for; None if it stands for none."""
    if type(value) is int:
        return value
    if version.integer_power_levels:
        return None
    if isinstance(value, str):
        spelled = value.strip()
        return int(spelled) if _SPELLED_INTEGER.fullmatch(spelled) else None
    if isinstance(value, float) and math.isfinite(value):
        return int(value)
    return None


def in_integers(version: RoomVersion, content: JsonObject) -> JsonObject:
    """The content of power levels as room versions from 10 on want it, without what stands for no level."""

    def levels(values: JsonObject) -> JsonObject:
        parsed = {key: parse_level(version, value) for key, value in values.items()}
        return {key: level for key, level in parsed.items() if level is not None}

    named = levels({name: content[name] for name in NAMED_LEVELS if name in content})
    maps = {name: levels(content[name]) for name in _MAPS if isinstance(content.get(name), dict)}
    others = {key: value for key, value in content.items() if key not in (*NAMED_LEVELS, *_MAPS)}
    return {**others, **named, **maps}


def creator_of(version: RoomVersion, create: CreateLike) -> str | None:
    """The user who made the room; None if an old create event does not say."""
    if version.implicit_room_creator:
        return create.sender
    creator = create.content.get("creator")
    return creator if isinstance(creator, str) else None


def privileged_creators(version: RoomVersion, create: CreateLike) -> frozenset[str]:
    """Those who stand above all levels: none before room version 12."""
    if not version.privileged_creators:
        return frozenset()
    return frozenset((create.sender, *create.content.get("additional_creators", ())))


class PowerLevels:
    """The levels of a room, given its power levels event's content (None if there is none)."""

    __slots__ = ("_content", "_create", "_privileged", "_version")

    def __init__(self, version: RoomVersion, content: JsonObject | None, create: CreateLike) -> None:
        self._version = version
        self._content = content
        self._create = create
        self._privileged = privileged_creators(version, create)

    def user_level(self, user_id: str) -> int:
        """The power of a user, whether or not in the room."""
        if user_id in self._privileged:
            return CREATOR_LEVEL
        if self._content is None:
            return 100 if user_id == creator_of(self._version, self._create) else 0
        level = self._entry("users", user_id)
        return self.named("users_default") if level is None else level

    def event_level(self, event_type: str, is_state: bool) -> int:
        """The power needed to send an event of this type."""
        level = self._entry("events", event_type)
        if level is None:
            return self.named("state_default" if is_state else "events_default")
        return level

    def named(self, name: str) -> int:
        """One of `NAMED_LEVELS`."""
        if self._content is not None and name in self._content:
            level = parse_level(self._version, self._content[name])
            if level is not None:
                return level
        return _NAMED_DEFAULTS[name]

    @property
    def ban(self) -> int:
        return self.named("ban")

    @property
    def kick(self) -> int:
        return self.named("kick")

    @property
    def invite(self) -> int:
        return self.named("invite")

    @property
    def redact(self) -> int:
        return self.named("redact")

    def _entry(self, table: str, key: str) -> int | None:
        entries = None if self._content is None else self._content.get(table)
        if not isinstance(entries, Mapping) or key not in entries:
            return None
        return parse_level(self._version, entries[key])
