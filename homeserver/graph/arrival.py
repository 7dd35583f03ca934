"""Coming into a room that lives on other servers: its state, what that rests on, and the join.

The state goes into the log as state, with no place in the timeline, which begins with the join. The
events of the auth chains, and those of the state, too, lie beside the log, where they are found by id.
"""

from collections.abc import Sequence

from homeserver.graph.receiving import state_entry
from homeserver.protocol.events import Event
from homeserver.protocol.signing import encode_event
from homeserver.rooms.event_entry import event_entry
from homeserver.rooms.event_meta import EventMeta
from homeserver.rooms.room import Room, RoomHead
from homeserver.rooms.rooms import Rooms
from homeserver.shard_writer import Append
from storage.collection import Collection
from storage.records.side_events import SideEvent

WRITTEN_AT_ONCE = 500


class Arrival:
    """Brings rooms in."""

    def __init__(self, rooms: Rooms, side_events: Collection[SideEvent]) -> None:
        self._rooms = rooms
        self._side = side_events

    async def arrive(self, state: Sequence[Event], auth_chain: Sequence[Event], join: Event) -> Room:
        """The room with the state before `join`, and with the join. All of it has been checked.

        Raises MatrixError 503. Until it returns the room is not known; it may then be tried again.
        """
        beside = {event.event_id: event for event in (*auth_chain, *state)}
        records = [_beside(event) for event in beside.values()]
        for first in range(0, len(records), WRITTEN_AT_ONCE):
            await self._side.put_many(records[first : first + WRITTEN_AT_ONCE])
        entries = [state_entry(join.room_id, *event.state_tuple, event) for event in state]
        body = encode_event(join.version, join.pdu)
        item, _ = event_entry(join, body, RoomHead(), 0, EventMeta())
        shard = self._rooms.shards.of_room(join.room_id)
        await self._rooms.writers[shard].submit(Append([*entries, item.entry]))
        room = await self._rooms.get(join.room_id)
        assert room is not None
        return room


def _beside(event: Event) -> SideEvent:
    return SideEvent(
        room_id=event.room_id, event_id=event.event_id, body=encode_event(event.version, event.pdu)
    )
