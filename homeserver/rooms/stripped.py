"""Stripped state: what somebody outside may know of a room (spec: client-server "Stripped state")."""

from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from homeserver.protocol.canonical_json import InvalidJson, check_value
from homeserver.protocol.identifiers import InvalidIdentifier, check_user_id
from homeserver.rooms.event_meta import Preview
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent

STRIPPED_TYPES = (
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.name",
    "m.room.encryption",
    "m.room.topic",
)
STRIPPED_KEYS = ("content", "sender", "state_key", "type")
MAX_PREVIEW_BYTES = 128 * 1024


def stripped_event(event: RoomEvent) -> bytes:
    """Only content, sender, state_key and type."""
    shown = orjson.loads(event.without_unsigned())
    return orjson.dumps({key: shown[key] for key in STRIPPED_KEYS})


def stripped_state(room: Room, user_id: str) -> list[bytes]:
    """For an invited or knocking user: the room's face, who invited, and the user's own member event."""
    state = room.head.state
    own = state.get(("m.room.member", user_id))
    if own is not None and own.preview is not None:
        return [*map(bytes, own.preview.state), stripped_event(own)]
    events = [event for type in STRIPPED_TYPES if (event := state.get((type, ""))) is not None]
    if own is not None:
        inviter = state.get(("m.room.member", own.sender))
        if inviter is not None and own.sender != user_id:
            events.append(inviter)
        events.append(own)
    return [stripped_event(event) for event in events]


def preview_of(room_version: str, server: str, told: Sequence[Any], user_id: str) -> Preview:
    """What another server has told of a room, for one of those events whom it concerns.

    What is no state event of the kinds that are shown is left out, and so is what would be too much.
    """
    state: dict[tuple[str, str], msgspec.Raw] = {}
    size = 0
    for event in told:
        stripped = _stripped(event)
        if stripped is None or stripped["state_key"] == user_id:
            continue
        encoded = orjson.dumps(stripped)
        size += len(encoded)
        if size > MAX_PREVIEW_BYTES:
            break
        state[stripped["type"], stripped["state_key"]] = msgspec.Raw(encoded)
    return Preview(room_version=room_version, server=server, state=tuple(state.values()))


def _stripped(event: Any) -> dict[str, Any] | None:
    """The parts of a state event that are shown, None if it is none that is."""
    if not isinstance(event, dict) or not isinstance(event.get("content"), dict):
        return None
    type, state_key, sender = (event.get(key) for key in ("type", "state_key", "sender"))
    if not isinstance(sender, str) or not isinstance(state_key, str):
        return None
    if type != "m.room.member" and not (type in STRIPPED_TYPES and state_key == ""):
        return None
    stripped = {key: event[key] for key in STRIPPED_KEYS}
    try:
        check_user_id(sender)
        check_value(stripped)
    except (InvalidIdentifier, InvalidJson):
        return None
    return stripped
