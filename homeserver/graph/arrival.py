"""Coming into a room that lives on other servers: its state, what that rests on, and the join.

The state goes into the log as state, with no place in the timeline, which begins with the join, or goes on
with it after a gap. What stood under the keys of the state before, from an earlier stay or from outside,
gives way. The events of the auth chains, and those of the state, too, lie beside the log, where they are
found by id.

The members of the state may follow later (`homeserver.graph.learning`): the room is partial till then.
"""

import asyncio
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from homeserver.clock import Clock
from homeserver.graph.events import GraphEvents, KnownEvent
from homeserver.graph.outliers import Outliers, auth_ids, refused_by_auth_events
from homeserver.graph.receiving import state_entry
from homeserver.protocol.event_auth import is_allowed, lookup_in
from homeserver.protocol.events import Event
from homeserver.protocol.signing import encode_event
from homeserver.protocol.state_resolution import StateKey
from homeserver.rooms.event_entry import event_entry
from homeserver.rooms.event_meta import EventMeta
from homeserver.rooms.room import CREATE, EMPTY_STATE, Partial, Room, RoomHead, partial_entry, view_of
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import takes_part
from homeserver.shard_writer import Appended, Drafts
from storage.collection import Collection
from storage.log import Entry, Kind
from storage.records.side_events import Gap

MEMBER = "m.room.member"


class NoSuchRoom(Exception):
    """What was told of a room does not make one that its user may have joined."""


class Arrival:
    """Brings rooms in."""

    def __init__(
        self,
        rooms: Rooms,
        events: GraphEvents,
        outliers: Outliers,
        gaps: Collection[Gap],
        server_name: str,
        now: Clock,
    ) -> None:
        self._rooms = rooms
        self._events = events
        self._outliers = outliers
        self._gaps = gaps
        self._server_name = server_name
        self._now = now

    async def arrive(
        self,
        state: Sequence[Event],
        auth_chain: Sequence[Event],
        join: Event,
        *,
        without_members: Sequence[str] = (),
    ) -> bool:
        """Have the room with the state before `join`, and with the join; all has come through the gate.

        If members are missing in it, `without_members` names the servers in the room. Of the state counts
        what its own auth events allow. Nothing is done, and False the answer, if this server is in the room
        by now. Raises NoSuchRoom, StoreError, MatrixError 503: it may be tried again.
        """
        room_id, version = join.room_id, join.version
        shard = self._rooms.shards.of_room(room_id)
        room = await self._rooms.get(room_id) or Room(room_id, shard, version, self._now)
        create = next((event for event in state if event.is_state and event.state_tuple == CREATE), None)
        # What rests on another beginning is not of this room, though it may be under the same id.
        told = [event for event in (*auth_chain, *state) if event.type != CREATE[0] or event is create]
        known = await self._outliers.add(room, told)
        believed = _believed(state, known)
        _check_create(believed, join)
        _check_join(believed, known, join)
        previous = await self._events.get_many(room, join.prev_events)
        there = {event_id for event_id, each in previous.items() if each.has_state}
        missing = [event_id for event_id in join.prev_events if event_id not in there]
        await self._gaps.put_many([Gap(room_id=room_id, event_id=event_id) for event_id in missing])
        entries = await asyncio.to_thread(_entries, believed)
        partial = Partial(join.event_id, tuple(without_members)) if without_members else None
        proposal = _Proposal(
            self._rooms, entries, join, self._server_name, partial, follows_unknown=bool(missing)
        )
        return await self._rooms.writers[shard].submit(proposal)


def _believed(state: Sequence[Event], known: Mapping[str, KnownEvent]) -> dict[StateKey, Event]:
    """The state without what is to be rejected. Raises NoSuchRoom if it is none."""
    believed: dict[StateKey, Event] = {}
    for event in state:
        if not event.is_state or event.state_tuple in believed:
            raise NoSuchRoom(f"{event.event_id} has no place in the state")
        each = known.get(event.event_id)
        if each is not None and not each.is_rejected:
            believed[event.state_tuple] = event
    return believed


def _check_create(state: Mapping[StateKey, Event], join: Event) -> None:
    create = state.get(CREATE)
    if create is None:
        raise NoSuchRoom("it has no create event")
    if create.content.get("room_version", "1") != join.version.identifier:
        raise NoSuchRoom("its create event says another version")


def _check_join(state: Mapping[StateKey, Event], known: Mapping[str, KnownEvent], join: Event) -> None:
    authorising = auth_ids(join)
    if not all(event_id in known for event_id in authorising):
        raise NoSuchRoom("what the join rests on is missing")
    if refused_by_auth_events(join, [known[event_id] for event_id in authorising]):
        raise NoSuchRoom("the auth events of the join refuse it")
    # Members that are not in the state are among what the join rests on.
    members = [each for event_id in authorising if (each := known[event_id].event).type == MEMBER]
    if not is_allowed(join.version, join, lookup_in([*members, *state.values()])):
        raise NoSuchRoom("the state does not allow the join")


def _entries(state: Mapping[StateKey, Event]) -> dict[StateKey, Entry]:
    return {key: state_entry(event.room_id, *key, event) for key, event in state.items()}


def _is_same(before: RoomEvent | None, entry: Entry) -> bool:
    """Whether the entry would change nothing of what stands under its key."""
    return before is not None and before.event_id == entry.target and before.preview is None


class _Proposal:
    """The entries of an arrival; none if this server is in the room already."""

    def __init__(
        self,
        rooms: Rooms,
        state: Mapping[StateKey, Entry],
        join: Event,
        server_name: str,
        partial: Partial | None,
        *,
        follows_unknown: bool,
    ) -> None:
        self._follows_unknown = follows_unknown
        self._rooms = rooms
        self._state = state
        self._join = join
        self._server_name = server_name
        self._partial = partial
        self._arrived = False

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        join = self._join
        room = self._rooms.cached(join.room_id)
        self._arrived = room is None or not takes_part(room, self._server_name)
        if not self._arrived:
            return []
        before = room.head.state if room is not None else EMPTY_STATE
        was_partial = room is not None and room.partial is not None
        is_partial = self._partial is not None
        partial = [partial_entry(join.room_id, self._partial)] if is_partial or was_partial else []
        missing = [key for key in before if key not in self._state and not (is_partial and key[0] == MEMBER)]
        gone = [state_entry(join.room_id, *key, None) for key in missing]
        new = [entry for key, entry in self._state.items() if not _is_same(before.get(key), entry)]
        leaves_gap = self._follows_unknown and room is not None and room.head.tips
        gap = [Entry(Kind.GAP, join.room_id)] if leaves_gap else []
        entries = [replace(entry, seq=next_seq + n) for n, entry in enumerate((*gap, *partial, *gone, *new))]
        head = RoomHead(before)
        replaced = next((entry for entry in entries if (entry.type, entry.key) == join.state_tuple), None)
        if replaced is not None and replaced.target is not None:
            head = RoomHead(before.set(join.state_tuple, view_of(replaced, EventMeta(), EMPTY_STATE)))
        body = encode_event(join.version, join.pdu)
        item, _ = event_entry(join, body, head, next_seq + len(entries), EventMeta(relay=True))
        return [*map(Appended, entries), item]

    def result(self) -> bool:
        return self._arrived

    def duplicate(self, existing: Entry) -> bool:
        return True
