"""One room's section of a /sync answer, as JSON bytes (spec: client-server "Syncing").

Pieces that are the same for everyone who reads the same slice are kept in the room's `fragments`
until the room changes, so that a message to two hundred clients is serialized once.
"""

from collections.abc import Iterable

import orjson

from homeserver.rooms.room import Room


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
