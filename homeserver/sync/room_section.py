"""One room's section of a /sync answer, as JSON bytes (spec: client-server "Syncing").

Pieces that are the same for everyone who reads the same slice are kept in the room's `fragments`
until the room changes, so that a message to two hundred clients is serialized once.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import orjson

from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.visibility import SightLine


class Reader(NamedTuple):
    """Who reads: own events show their transaction id to the device that sent them."""

    user_id: str
    device_id: str
    ignored: frozenset[str]


def render_events(
    room: Room,
    events: Sequence[RoomEvent],
    reader: Reader,
    now: int,
    bundles: Mapping[str, bytes] | None = None,
    sight: SightLine | None = None,
    room_id: bytes | None = None,
) -> list[bytes]:
    """Client forms of events; with a sight line the reader's membership at each is told, else "join"."""
    rendered: list[bytes] = []
    for event in events:
        txn = event.txn
        own = (
            txn.txn_id
            if txn is not None and event.sender == reader.user_id and txn.device_id == reader.device_id
            else None
        )
        rendered.append(
            event.render(
                now,
                membership=sight.membership_at(event.position) if sight is not None else "join",
                txn_id=own,
                relations=bundles.get(event.event_id) if bundles else None,
                room_id=room_id,
            )
        )
    return rendered


def events_object(events: Iterable[bytes]) -> bytes:
    return b'{"events":[' + b",".join(events) + b"]}"


def receipts_event(room: Room, after: int, upto: int, user_id: str) -> bytes | None:
    """The `m.receipt` event of what changed; private receipts are for their own user only."""
    order = room.receipt_order
    if not order or order[-1].seq <= after:
        return None
    newest = (
        order
        if after >= room.receipts_after
        else sorted(receipt for of_user in room.receipts.values() for receipt in of_user.values())
    )
    content: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    for receipt in newest:
        if not after < receipt.seq <= upto:
            continue
        if receipt.kind == "m.read.private" and receipt.user_id != user_id:
            continue
        if room.receipts[receipt.user_id].get((receipt.kind, receipt.thread_id)) is not receipt:
            continue
        shown: dict[str, object] = {"ts": receipt.ts}
        if receipt.thread_id is not None:
            shown["thread_id"] = receipt.thread_id
        content.setdefault(receipt.event_id, {}).setdefault(receipt.kind, {})[receipt.user_id] = shown
    if not content:
        return None
    return orjson.dumps({"type": "m.receipt", "content": content})
