"""An event as a room holds it in memory: serialized for clients once, everything else on demand.

The client form (spec: client-server "Room event format") is kept as two pieces of JSON with the age
between them, so that giving it to two hundred clients is two hundred small joins:

    front = "content":…,"event_id":…,…,"unsigned":{"membership":"join","age":   tail = ,"prev_content":…}}

What depends on who asks (own transaction id, a membership other than "join", bundled relations) is
put in by `render`.
"""

from copy import copy

import msgspec
import orjson

from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import reference_hash
from homeserver.rooms.event_meta import EventMeta, Preview
from storage.log import Entry, Kind

_CHOSEN_IDS = ROOM_VERSIONS["1"]
"""Version 2 makes its hashes in the same way; in later versions ids are hashes, and have no ":"."""

_MEMBERSHIP_AGE = b',"unsigned":{"membership":"join","age":'
_NO_UNSIGNED = b"}}"


class RoomEvent(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """A timeline or state event in memory. `position` orders it within its room."""

    position: int
    event_id: str
    type: str
    sender: str
    state_key: str | None
    ts: int
    front: bytes
    tail: bytes
    redacts: str | None
    relates_to: str | None
    rel_type: str | None
    txn: "ClientTransaction | None"
    depth: int = 0
    reference_hash: str | None = None
    """What other events name beside the id, in the room versions where ids are no hashes."""
    preview: Preview | None = None
    setting: str | None = None
    """See `EventMeta`."""
    newcomers: tuple[str, ...] = ()
    """See `EventMeta`."""
    _content: JsonObject | None = None

    @property
    def content(self) -> JsonObject:
        """The content; parsed anew each time but for the small state that is asked for all the time."""
        if self._content is not None:
            return self._content
        content: JsonObject = orjson.loads(self.without_unsigned())["content"]
        if self.state_key == "" and len(self.front) < 8192:
            self._content = content
        return content

    @property
    def membership(self) -> str | None:
        """`content.membership` of a member event."""
        value = _member.decode(self.without_unsigned()).content.membership
        return value if isinstance(value, str) else None

    def unsigned(self) -> JsonObject:
        """What `unsigned` says to everyone (`prev_content` and the like), parsed anew."""
        if self.tail == _NO_UNSIGNED:
            return {}
        unsigned: JsonObject = orjson.loads(b"{" + self.tail[1:-1])
        return unsigned

    @property
    def is_redacted(self) -> bool:
        return "redacted_because" in self.unsigned()

    def with_unsigned(self, unsigned: JsonObject) -> "RoomEvent":
        """The same event, of which `unsigned` says something else to everyone."""
        event = copy(self)
        event.tail = client_tail(unsigned)
        return event

    def size(self) -> int:
        """Bytes of memory, roughly; for the budget."""
        preview = sum(map(len, self.preview.state)) if self.preview is not None else 0
        return 450 + len(self.front) + len(self.tail) + preview

    def render(
        self,
        now: int,
        *,
        membership: str = "join",
        txn_id: str | None = None,
        delay_id: str | None = None,
        relations: bytes | None = None,
        room_id: bytes | None = None,
    ) -> bytes:
        """The client form as JSON bytes. `relations` is the JSON of `m.relations`; `room_id` JSON too."""
        front = self.front
        if membership != "join":
            front = front[: -len(_MEMBERSHIP_AGE)] + b',"unsigned":{"membership":%b,"age":' % (
                orjson.dumps(membership)
            )
        tail = self.tail
        if txn_id is not None:
            tail = b',"transaction_id":' + orjson.dumps(txn_id) + tail
        if delay_id is not None:
            tail = b',"org.matrix.msc4140.delay_id":' + orjson.dumps(delay_id) + tail
        if relations is not None:
            tail = b',"m.relations":' + relations + tail
        age = now - self.ts if now > self.ts else 0
        if room_id is None:
            return b"{%b%d%b" % (front, age, tail)
        return b'{"room_id":%b,%b%d%b' % (room_id, front, age, tail)

    def without_unsigned(self) -> bytes:
        """The client form without `unsigned`, for stripped and hashed uses."""
        return b"{%b}" % self.front[: -len(_MEMBERSHIP_AGE)]


class _MemberContent(msgspec.Struct, gc=False):
    membership: object = None


class _Member(msgspec.Struct, gc=False):
    content: _MemberContent


_member = msgspec.json.Decoder(_Member)


class ClientTransaction:
    """Who sent an event under which transaction id; only that device is shown the id.

    The `delay_id` of an event that was delayed is shown to all devices of its sender (MSC4140).
    """

    __slots__ = ("delay_id", "device_id", "txn_id")

    def __init__(self, device_id: str | None, txn_id: str | None, delay_id: str | None) -> None:
        self.device_id = device_id
        self.txn_id = txn_id
        self.delay_id = delay_id


def named_target(pdu: JsonObject) -> str | None:
    """The event that a redaction names, if it does so in one place only, as it should.

    Room versions before 11 have `redacts` at the top, later ones in the content. Where something stands in
    the place that does not count, `EventMeta.redacts` says what counts.
    """
    redacts = pdu.get("redacts")
    if redacts is None:
        redacts = pdu["content"].get("redacts")
    return redacts if isinstance(redacts, str) else None


def redaction_target(pdu: JsonObject, meta: EventMeta) -> str | None:
    """The event that a redaction in the log redacts, if it may."""
    return named_target(pdu) if meta.redacts is None else meta.redacts or None


def client_front(pdu: JsonObject, event_id: str, redacts: str | None = None) -> bytes:
    """`front` of an event's client form; keys of the PDU that clients must not see are left out.

    Of a redaction, `redacts` is what it redacts: clients of old and new room versions find it in either
    place (spec: room version 11, "Redactions"), and nothing else.
    """
    content = pdu["content"]
    if pdu["type"] == "m.room.redaction":
        content = {key: value for key, value in content.items() if key != "redacts"}
        if redacts is not None:
            content["redacts"] = redacts
    shown: JsonObject = {
        "content": content,
        "event_id": event_id,
        "origin_server_ts": pdu["origin_server_ts"],
        "sender": pdu["sender"],
        "type": pdu["type"],
    }
    state_key = pdu.get("state_key")
    if state_key is not None:
        shown["state_key"] = state_key
    if redacts is not None:
        shown["redacts"] = redacts
    return orjson.dumps(shown)[1:-1] + _MEMBERSHIP_AGE


def client_tail(unsigned: JsonObject) -> bytes:
    """`tail` of an event's client form from what goes under `unsigned` for everyone."""
    if not unsigned:
        return _NO_UNSIGNED
    return b"," + orjson.dumps(unsigned)[1:] + b"}"


def relation_of(content: JsonObject) -> tuple[str | None, str | None]:
    """(parent event id, rel_type) of `m.relates_to`, if it is a well-formed relation."""
    relates = content.get("m.relates_to")
    if not isinstance(relates, dict):
        return None, None
    parent, rel_type = relates.get("event_id"), relates.get("rel_type")
    if isinstance(parent, str) and isinstance(rel_type, str) and len(parent) <= 255 and len(rel_type) <= 255:
        return parent, rel_type
    return None, None


class _Shown(msgspec.Struct, gc=False):
    """What of a PDU's JSON clients see beside what its entry says; the content stays unparsed."""

    content: msgspec.Raw
    depth: int = 0


_shown = msgspec.json.Decoder(_Shown)


def transaction_of(meta: EventMeta) -> ClientTransaction | None:
    if meta.txn_id is None and meta.delay_id is None:
        return None
    return ClientTransaction(meta.device_id, meta.txn_id, meta.delay_id)


def make_room_event(entry: Entry, meta: EventMeta, unsigned: JsonObject) -> RoomEvent:
    """The in-memory form of an EVENT entry, or of the event that a STATE entry makes current.

    `meta` is the entry's own, `unsigned` has its static fields.
    """
    state_key = entry.key if meta.state_key is None else meta.state_key
    of_timeline = entry.kind is Kind.EVENT
    event_id = entry.event_id if of_timeline else entry.target
    assert event_id is not None and entry.type is not None and entry.sender is not None
    pdu = _shown.decode(entry.body)
    redacts = None
    if entry.type == "m.room.redaction":
        redaction = orjson.loads(entry.body)
        redacts = redaction_target(redaction, meta)
        front = client_front(redaction, event_id, redacts)
    else:
        dumps = orjson.dumps
        keyed = b"" if state_key is None else b',"state_key":' + dumps(state_key)
        front = b'"content":%b,"event_id":%b,"origin_server_ts":%d,"sender":%b,"type":%b%b%b' % (
            pdu.content,
            dumps(event_id),
            entry.ts,
            dumps(entry.sender),
            dumps(entry.type),
            keyed,
            _MEMBERSHIP_AGE,
        )
    return RoomEvent(
        position=entry.came_at,
        event_id=event_id,
        type=entry.type,
        sender=entry.sender,
        state_key=state_key,
        ts=entry.ts,
        front=front,
        tail=client_tail(unsigned),
        redacts=redacts,
        relates_to=entry.target if of_timeline else None,
        rel_type=entry.rel_type,
        txn=transaction_of(meta),
        preview=meta.preview,
        setting=meta.setting,
        newcomers=meta.newcomers,
        depth=pdu.depth,
        reference_hash=(reference_hash(_CHOSEN_IDS, orjson.loads(entry.body)) if ":" in event_id else None),
    )
