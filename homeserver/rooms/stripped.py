"""Stripped state: what somebody outside may know of a room (spec: client-server "Stripped state")."""

import orjson

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


def stripped_event(event: RoomEvent) -> bytes:
    """Only content, sender, state_key and type."""
    shown = orjson.loads(event.without_unsigned())
    return orjson.dumps({key: shown[key] for key in ("content", "sender", "state_key", "type")})


def stripped_state(room: Room, user_id: str) -> list[bytes]:
    """For an invited or knocking user: the room's face, who invited, and the user's own member event."""
    state = room.head.state
    events = [event for type in STRIPPED_TYPES if (event := state.get((type, ""))) is not None]
    own = state.get(("m.room.member", user_id))
    if own is not None:
        inviter = state.get(("m.room.member", own.sender))
        if inviter is not None and own.sender != user_id:
            events.append(inviter)
        events.append(own)
    return [stripped_event(event) for event in events]
