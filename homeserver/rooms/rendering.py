"""Events as one reader is shown them (spec: client-server "Room event format")."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.visibility import SightLine


class Reader(NamedTuple):
    """Who reads: own events show their transaction id to the device that sent them, the delay id to all."""

    user_id: str
    device_id: str
    ignored: frozenset[str]


def events_array(events: Iterable[RoomEvent], now: int, room: Room) -> bytes:
    """Client forms of events with their room id, as a JSON array, for a reader whoever it is."""
    return b"[" + b",".join(event.render(now, room_id=room.room_id_json) for event in events) + b"]"


def render_events(
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
        own = event.txn if event.sender == reader.user_id else None
        rendered.append(
            event.render(
                now,
                membership=sight.membership_at(event.position) if sight is not None else "join",
                txn_id=own.txn_id if own is not None and own.device_id == reader.device_id else None,
                delay_id=own.delay_id if own is not None else None,
                relations=bundles.get(event.event_id) if bundles else None,
                room_id=room_id,
            )
        )
    return rendered
