"""Events of other servers that follow upon all that the room has, one after the other: nearly all of them.

The state before such an event is the room's own. So nothing has to be worked out, and as many as come
together are appended together, each checked against what it really follows upon.
"""

from collections.abc import Sequence

from homeserver.graph.early_redactions import is_early_redaction
from homeserver.graph.events import GraphEvents, KnownEvent
from homeserver.graph.outliers import auth_ids, refused_by_auth_events
from homeserver.graph.redacting import is_vain, redacted_by, redacts_key
from homeserver.protocol.event_auth import is_allowed
from homeserver.protocol.events import Event
from homeserver.protocol.signing import encode_event
from homeserver.rooms.event_entry import event_entry
from homeserver.rooms.event_meta import EventMeta
from homeserver.rooms.policy import is_recommended, policy_server
from homeserver.rooms.room import Room, RoomHead
from homeserver.rooms.rooms import Rooms
from homeserver.shard_writer import Appended, Drafts
from storage.log import Entry
from storage.records.side_events import OUTLIER


class Onward:
    """Appends them."""

    def __init__(self, rooms: Rooms, events: GraphEvents) -> None:
        self._rooms = rooms
        self._events = events

    async def take(self, room: Room, events: Sequence[Event], *, relay: bool = False) -> int:
        """Take the first ones of some events; how many. `relay`: see `EventMeta`.

        The next one is of another kind: it came before, forks the room, rests on something unknown, redacts
        what is not there or may not be redacted, or is not allowed. Raises MatrixError 503.
        """
        wanted = {event_id for event in events for event_id in (event.event_id, *auth_ids(event))}
        wanted |= {event.redacts for event in events if event.redacts is not None}
        known = await self._events.get_many(room, wanted)
        tips = set(room.head.tips)
        run: list[tuple[Event, EventMeta, Event | None]] = []
        for event in events:
            before = known.get(event.event_id)
            if set(event.prev_events) != tips or (before is not None and before.standing != OUTLIER):
                break
            named = [known.get(auth_id) for auth_id in auth_ids(event)]
            there = [each for each in named if each is not None]
            if len(there) < len(named) or refused_by_auth_events(event, there):
                break
            if is_early_redaction(event, known):
                break
            redacted = redacted_by(event, known)
            run.append((event, EventMeta(redacts_key=redacts_key(redacted), relay=relay), redacted))
            known[event.event_id] = KnownEvent(event, None)
            tips = {event.event_id}
        if not run:
            return 0
        taken = await self._rooms.submit(room, _Run(room, run))
        for event, *_ in run[:taken]:
            self._events.forget(room.room_id, event.event_id)
        return taken


class _Run:
    """The entries of events, as long as each follows upon all that there is."""

    def __init__(self, room: Room, run: Sequence[tuple[Event, EventMeta, Event | None]]) -> None:
        """`run`: each with what it redacts."""
        self._room = room
        self._run = run
        self._taken = 0

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        head: RoomHead = drafts.get(self._room.room_id) or self._room.head
        built: list[Appended] = []
        for event, meta, redacted in self._run:
            if set(event.prev_events) != set(head.tips) or not is_allowed(event.version, event, head.lookup):
                break
            if is_vain(event, redacted, head):
                break
            if not is_recommended(policy_server(self._room, head), event):
                break
            body = encode_event(event.version, event.pdu)
            item, head = event_entry(event, body, head, next_seq + len(built), meta)
            built.append(item)
        self._taken = len(built)
        if built:
            drafts[self._room.room_id] = head
        return built

    def result(self) -> int:
        return self._taken

    def duplicate(self, existing: Entry) -> int:
        return 0
