"""An event as the next entry of its room's log, whoever made it."""

import orjson
from msgspec.structs import replace

from homeserver.protocol.events import Event
from homeserver.rooms.event_meta import EventMeta, encode_meta
from homeserver.rooms.room import RoomHead, replaced_state
from homeserver.rooms.room_event import make_room_event, named_target, relation_of
from homeserver.shard_writer import Appended
from storage.log import Entry, Kind


def entry_of(
    event: Event,
    body: bytes,
    meta: EventMeta,
    *,
    seq: int,
    pos: int | None = None,
    txn: bytes | None = None,
) -> Entry:
    """The entry `seq` of an event; `body` is the event as it was signed."""
    target, rel_type = relation_of(event.content)
    return Entry(
        kind=Kind.EVENT,
        stream=event.room_id,
        body=body,
        event_id=event.event_id,
        type=event.type,
        key=event.state_key if meta.state_key is None else None,
        sender=event.sender,
        target=target,
        rel_type=rel_type,
        txn=txn,
        ts=event.origin_server_ts,
        meta=encode_meta(meta),
        pos=pos,
        seq=seq,
    )


def misnamed_target(event: Event) -> str | None:
    """`EventMeta.redacts` of an event."""
    if event.type != "m.room.redaction" or named_target(event.pdu) == event.redacts:
        return None
    return event.redacts or ""


def event_entry(
    event: Event, body: bytes, head: RoomHead, seq: int, meta: EventMeta, *, txn: bytes | None = None
) -> tuple[Appended, RoomHead]:
    """The entry `seq` of an event that comes upon `head`, and the head after it.

    `body` is the event as it was signed, `meta` what is particular about it but for the event that it
    replaces, `txn` the digest of the client's transaction.
    """
    current = meta.state_key is None
    replaced = head.state.get(event.state_tuple) if event.is_state else None
    if replaced is not None and replaced.position > 0:
        meta = replace(meta, replaces=replaced.position)
    misnamed = misnamed_target(event)
    if misnamed is not None:
        meta = replace(meta, redacts=misnamed)
    entry = entry_of(event, body, meta, seq=seq, txn=txn)
    unsigned = replaced_state(replaced) if replaced is not None else {}
    view = make_room_event(entry, meta, unsigned)
    after = head.advance(view, meta.tips, current=current)
    if meta.redacts_key is not None:
        after = after.redacted(event.version, view, meta.redacts_key, orjson.dumps(event.room_id))
    return Appended(entry, view), after
