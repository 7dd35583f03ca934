"""What a redaction does to its target, in memory and in the store.

The redaction itself is an ordinary event; whether it takes effect is decided when it is appended,
against the room's current state (spec: client-server "Redactions", rooms "Redactions" per version).
"""

from collections.abc import Callable

import orjson

from homeserver.errors import forbidden
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.power_levels import PowerLevels
from homeserver.protocol.redaction import redact, redactor_suffices
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.event_meta import decode_meta
from homeserver.rooms.room_event import RoomEvent, client_front, client_tail, named_target
from storage.log import Entry, Kind


def may_redact(
    version: RoomVersion,
    lookup: Callable[[str, str], RoomEvent | None],
    redactor: str,
    target_sender: str,
) -> bool:
    """Whether a local user may redact an event of `target_sender`: the own one, or by power level."""
    if redactor == target_sender:
        return True
    levels = power_levels(version, lookup)
    return levels.user_level(redactor) >= levels.redact


def takes_effect(
    version: RoomVersion,
    lookup: Callable[[str, str], RoomEvent | None],
    redactor: str,
    target_sender: str,
) -> bool:
    """Whether a redaction that was accepted redacts: other servers may let their users do more."""
    return redactor_suffices(version, redactor, target_sender, power_levels(version, lookup))


def power_levels(version: RoomVersion, lookup: Callable[[str, str], RoomEvent | None]) -> PowerLevels:
    """The power levels of a state. Raises 403 for a room that this server is not in."""
    create = lookup("m.room.create", "")
    if create is None:
        raise forbidden("This server is not in the room")
    levels = lookup("m.room.power_levels", "")
    return PowerLevels(version, levels.content if levels is not None else None, create)


def is_redaction(entry: Entry) -> bool:
    """Whether an entry's event may redact another. State redacts nothing."""
    return entry.kind is Kind.EVENT and entry.type == "m.room.redaction" and entry.key is None


def redacted_key(entry: Entry) -> tuple[str, str] | None:
    """The state key of what an entry's event redacts, if it is a redaction, and of state."""
    return decode_meta(entry.meta).redacts_key if is_redaction(entry) else None


def redacted_view(
    version: RoomVersion, target: RoomEvent, redaction: RoomEvent, room_id_json: bytes
) -> RoomEvent:
    """The in-memory form of `target` after `redaction`."""
    because = orjson.loads(redaction.render(redaction.ts, room_id=room_id_json))
    return pruned_view(version, target, {"redacted_because": because})


def pruned_view(version: RoomVersion, target: RoomEvent, unsigned: JsonObject) -> RoomEvent:
    """The in-memory form of what a redaction leaves of `target`, with this as its `unsigned`."""
    shown: JsonObject = orjson.loads(target.without_unsigned())
    pruned = redact(version, shown)
    pruned.setdefault("content", {})
    return RoomEvent(
        position=target.position,
        event_id=target.event_id,
        type=target.type,
        sender=target.sender,
        state_key=target.state_key,
        ts=target.ts,
        front=client_front(pruned, target.event_id, named_target(pruned)),
        tail=client_tail(unsigned),
        redacts=None,
        relates_to=None,
        rel_type=None,
        txn=None,
        depth=target.depth,
        reference_hash=target.reference_hash,
    )


def with_redacted_predecessor(version: RoomVersion, event: RoomEvent) -> RoomEvent:
    """A state event whose predecessor was redacted: `prev_content` is what is left of that."""
    unsigned = event.unsigned()
    before = redact(version, {"type": event.type, "content": unsigned["prev_content"]})
    return event.with_unsigned({**unsigned, "prev_content": before["content"]})


def after_redaction(
    version: RoomVersion,
    lookup: Callable[[str, str], RoomEvent | None],
    event: RoomEvent,
    redaction: RoomEvent,
    room_id_json: bytes,
) -> RoomEvent:
    """What an event is after a redaction in its room: itself, unless that is of it or of what it replaced.

    The create event stays: a room that lost its version would not be the same room.
    """
    unsigned = event.unsigned()
    if event.type == "m.room.create" or "redacted_because" in unsigned:
        return event
    if event.event_id == redaction.redacts:
        if takes_effect(version, lookup, redaction.sender, event.sender):
            return redacted_view(version, event, redaction, room_id_json)
    elif unsigned.get("replaces_state") == redaction.redacts and takes_effect(
        version, lookup, redaction.sender, unsigned["prev_sender"]
    ):
        return with_redacted_predecessor(version, event)
    return event
