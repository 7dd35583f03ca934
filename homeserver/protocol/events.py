"""Events: what a PDU says, read once; and the making of new ones (spec: server-server#pdus, rooms).

`parse_pdu` is strict and for what comes over the wire; `load_event` is for events that were accepted
before, whatever they look like. `build_event` makes, hashes and signs: its bytes are what is stored
and sent, for good. `event_template` is the part of it that others may do the rest for.

    InvalidEvent         not an event of this room version
      BadJson            it is not made of such JSON as the version admits
      EventTooLarge      it would be, but for its size
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict, Unpack

from homeserver.protocol.canonical_json import InvalidJson, check_depth, check_shape
from homeserver.protocol.identifiers import (
    InvalidIdentifier,
    check_event_id,
    check_room_id,
    check_user_id,
)
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.redaction import redact
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.signing import SigningKey, encode_base64, encode_event, event_id_of, hash_text

MAX_EVENT_BYTES = 65_536
MAX_FIELD = 255
"""Bytes; in events of others see `RoomVersion.field_limits_in_bytes`."""
LARGEST_TIME = 2**63 - 1
"""Milliseconds, before or after 1970; from room version 6 on all numbers are smaller."""
MAX_PREV_EVENTS = 20
MAX_AUTH_EVENTS = 10


class InvalidEvent(ValueError):
    """Not an event of the room version."""


class BadJson(InvalidEvent):
    """The event is not made of such JSON as its room version admits."""


class EventTooLarge(InvalidEvent):
    """The event, or one of its fields, is over a size limit."""


class Event:
    """An event with its fields at hand. Treat it, and what it holds, as immutable."""

    __slots__ = (
        "auth_events",
        "content",
        "depth",
        "event_id",
        "origin_server_ts",
        "pdu",
        "prev_events",
        "redacts",
        "room_id",
        "sender",
        "state_key",
        "type",
        "version",
    )

    def __init__(self, version: RoomVersion, pdu: JsonObject, event_id: str) -> None:
        self.version = version
        self.pdu = pdu
        """The federation format, `hashes` and `signatures` included."""
        self.event_id = event_id
        self.type: str = pdu["type"]
        self.sender: str = pdu["sender"]
        self.state_key: str | None = pdu.get("state_key")
        self.content: JsonObject = pdu["content"]
        self.origin_server_ts: int = pdu["origin_server_ts"]
        self.depth: int = pdu["depth"]
        if version.event_ids_are_hashes:
            self.prev_events: tuple[str, ...] = tuple(pdu["prev_events"])
            self.auth_events: tuple[str, ...] = tuple(pdu["auth_events"])
        else:
            self.prev_events = tuple(reference[0] for reference in pdu["prev_events"])
            self.auth_events = tuple(reference[0] for reference in pdu["auth_events"])
        if version.room_id_is_create_hash and self.type == "m.room.create":
            self.room_id = "!" + event_id[1:]
        else:
            self.room_id = pdu["room_id"]
        redacts = None
        if self.type == "m.room.redaction":
            redacts = (self.content if version.redacts_in_content else pdu).get("redacts")
        self.redacts: str | None = redacts if isinstance(redacts, str) else None

    @property
    def is_state(self) -> bool:
        return self.state_key is not None

    @property
    def state_tuple(self) -> tuple[str, str]:
        """Type and state key, the key under which a state event stands in the state."""
        if self.state_key is None:
            raise ValueError(f"{self.event_id} is not a state event")
        return self.type, self.state_key

    def __repr__(self) -> str:
        return f"Event({self.event_id!r}, {self.type!r}, state_key={self.state_key!r})"


def load_event(version: RoomVersion, pdu: JsonObject, event_id: str) -> Event:
    """An event that was accepted before; nothing is checked again."""
    return Event(version, pdu, event_id)


def parse_pdu(version: RoomVersion, pdu: JsonObject) -> Event:
    """The event in a PDU as a peer sent it. Raises InvalidEvent if it breaks the event format.

    Neither signatures nor hashes nor authorisation are checked here.
    """
    try:
        return _parse(version, pdu)
    except InvalidJson as error:
        raise BadJson(str(error)) from None
    except InvalidIdentifier as error:
        raise InvalidEvent(str(error)) from None


def _parse(version: RoomVersion, pdu: JsonObject) -> Event:
    if not isinstance(pdu, dict):
        raise InvalidEvent("an event is a JSON object")
    if version.strict_canonical_json:
        check_shape(pdu)
    else:
        check_depth(pdu)
    _check_size(len(encode_event(version, pdu)))

    event_type = _string(pdu, "type")
    in_bytes = version.field_limits_in_bytes
    _check_field("type", event_type, in_bytes=in_bytes)
    check_user_id(_string(pdu, "sender"))
    if "state_key" in pdu:
        _check_field("state_key", _string(pdu, "state_key"), in_bytes=in_bytes)
    if version.room_id_is_create_hash and event_type == "m.room.create":
        # spec: rooms/v12#authorisation-rules 1.2
        if "room_id" in pdu:
            raise InvalidEvent("a create event has no room_id in this room version")
    else:
        room_id = check_room_id(_string(pdu, "room_id"))
        if version.room_id_is_create_hash == (":" in room_id):
            raise InvalidEvent(f"{room_id!r} is not a room id of this room version")
    if not -LARGEST_TIME <= _integer(pdu, "origin_server_ts") <= LARGEST_TIME:
        raise InvalidEvent("origin_server_ts is out of range")
    if not 0 <= _integer(pdu, "depth") <= version.max_depth:
        raise InvalidEvent("depth is out of range")
    _object(pdu, "content")
    if "unsigned" in pdu:
        _object(pdu, "unsigned")
    if not version.redacts_in_content and "redacts" in pdu:
        _string(pdu, "redacts")
    _string(_object(pdu, "hashes"), "sha256")
    for server, signatures in _object(pdu, "signatures").items():
        if not isinstance(signatures, dict) or not all(isinstance(s, str) for s in signatures.values()):
            raise InvalidEvent(f"the signatures of {server!r} are not strings by key id")
    _check_references(version, pdu, "prev_events", MAX_PREV_EVENTS)
    _check_references(version, pdu, "auth_events", MAX_AUTH_EVENTS)
    if not version.event_ids_are_hashes and ":" not in check_event_id(_string(pdu, "event_id")):
        raise InvalidEvent("event_id names no server")
    return Event(version, pdu, event_id_of(version, pdu))


def _string(obj: JsonObject, key: str) -> str:
    value = obj.get(key)
    if not isinstance(value, str):
        raise InvalidEvent(f"{key} is missing or not a string")
    return value


def _integer(obj: JsonObject, key: str) -> int:
    value = obj.get(key)
    if type(value) is not int:
        raise InvalidEvent(f"{key} is missing or not an integer")
    return value


def _object(obj: JsonObject, key: str) -> JsonObject:
    value = obj.get(key)
    if not isinstance(value, dict):
        raise InvalidEvent(f"{key} is missing or not an object")
    return value


def _check_field(name: str, value: str, *, in_bytes: bool = True) -> None:
    if len(value.encode() if in_bytes and not value.isascii() else value) > MAX_FIELD:
        raise EventTooLarge(f"{name} is longer than {MAX_FIELD} {'bytes' if in_bytes else 'characters'}")


def _check_size(size: int) -> None:
    if size > MAX_EVENT_BYTES:
        raise EventTooLarge(f"the event has {size} bytes, more than {MAX_EVENT_BYTES}")


def _check_references(version: RoomVersion, pdu: JsonObject, key: str, limit: int) -> None:
    references = pdu.get(key)
    if not isinstance(references, list) or len(references) > limit:
        raise InvalidEvent(f"{key} is missing or not a list of at most {limit} events")
    for reference in references:
        event_id = reference
        if not version.event_ids_are_hashes:
            if not isinstance(reference, list) or len(reference) != 2 or not isinstance(reference[1], dict):
                raise InvalidEvent(f"{key} has an entry that is not an event id and its hashes")
            event_id = reference[0]
        if not isinstance(event_id, str):
            raise InvalidEvent(f"{key} has an entry that is not an event id")
        check_event_id(event_id)


class EventFields(TypedDict):
    """What makes an event, but for who signs it."""

    room_id: str | None
    """None only for the create event of a room that is named by it."""
    type: str
    sender: str
    state_key: str | None
    content: JsonObject
    prev_events: Sequence[str]
    auth_events: Sequence[str]
    depth: int
    origin_server_ts: int
    """Milliseconds."""
    redacts: NotRequired[str | None]
    reference_hashes: NotRequired[Mapping[str, str] | None]
    """Event id → hash, in room versions 1 and 2, for all events that are referred to."""


def event_template(version: RoomVersion, **fields: Unpack[EventFields]) -> JsonObject:
    """The PDU of a new event without its id, hash and signature."""
    content, redacts = fields["content"], fields.get("redacts")
    if redacts is not None and version.redacts_in_content:
        content = {**content, "redacts": redacts}
    hashes = fields.get("reference_hashes")
    pdu: JsonObject = {
        "auth_events": _references(version, fields["auth_events"], hashes),
        "content": content,
        "depth": fields["depth"],
        "origin_server_ts": fields["origin_server_ts"],
        "prev_events": _references(version, fields["prev_events"], hashes),
        "sender": fields["sender"],
        "type": fields["type"],
    }
    if fields["room_id"] is not None:
        pdu["room_id"] = fields["room_id"]
    if fields["state_key"] is not None:
        pdu["state_key"] = fields["state_key"]
    if redacts is not None and not version.redacts_in_content:
        pdu["redacts"] = redacts
    return pdu


def build_event(
    version: RoomVersion, *, server_name: str, key: SigningKey, **fields: Unpack[EventFields]
) -> tuple[Event, bytes]:
    """A new event, hashed and signed, and the canonical bytes of its PDU.

    Raises InvalidJson for content that is not canonical JSON where the room version wants it, and
    EventTooLarge.
    """
    if version.strict_canonical_json:
        check_shape(fields["content"])
    pdu = event_template(version, **fields)
    unhashed = encode_event(version, pdu)
    if not version.event_ids_are_hashes:
        # The id is under the content hash, so it is made of all the rest.
        pdu["event_id"] = f"${hashlib.sha256(unhashed).hexdigest()[:24]}:{server_name}"
        unhashed = encode_event(version, pdu)
    pdu["hashes"] = {"sha256": encode_base64(hashlib.sha256(unhashed).digest())}
    signed = encode_event(version, redact(version, pdu))
    pdu["signatures"] = {server_name: {key.key_id: key.sign(signed)}}
    encoded = encode_event(version, pdu)

    _check_size(len(encoded))
    for name in ("type", "sender", "state_key", "room_id"):
        if name in pdu:
            _check_field(name, pdu[name])
    event_id = "$" + hash_text(version, signed) if version.event_ids_are_hashes else pdu["event_id"]
    return Event(version, pdu, event_id), encoded


def _references(
    version: RoomVersion, event_ids: Sequence[str], hashes: Mapping[str, str] | None
) -> Sequence[str | list[str | dict[str, str]]]:
    if version.event_ids_are_hashes:
        return list(event_ids)
    known = hashes or {}
    # Nobody relies on the hash, and some servers do not keep it: it may be "".
    return [[event_id, {"sha256": known[event_id]} if known[event_id] else {}] for event_id in event_ids]
