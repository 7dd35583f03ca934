"""What was in a room while this server was not, as other servers have it: before it came in, and in the gaps
of its timeline.

The events lie in the log at positions below zero, in the range of their gap
(`homeserver.rooms.reading_order`). Each batch of them has the state before its oldest event noted beneath it,
as far as it decides who may see the batch and what redactions in it do; for the state before each event in
between is not known here, and nothing that is sent now can rest on it. Before the room's first event these
notes are part of its state as it was. In a gap they stand apart: what was before the gap must not know them.

spec: server-server "Backfilling and retrieving missing events"
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Collection as Items
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from msgspec.structs import replace

from homeserver.graph.events import GraphEvents, KnownEvent
from homeserver.graph.outliers import auth_ids, side_event, standings
from homeserver.graph.receiving import state_entry
from homeserver.graph.states import StateIds
from homeserver.protocol.events import Event
from homeserver.protocol.signing import encode_event
from homeserver.protocol.state_resolution import StateKey
from homeserver.rooms.event_entry import entry_of, misnamed_target
from homeserver.rooms.event_meta import EventMeta
from homeserver.rooms.reading_order import in_gap, lower_end
from homeserver.rooms.room import CREATE, Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import has_user_of
from homeserver.shard_writer import Appended, Drafts
from storage.collection import Collection
from storage.log import Entry, Kind
from storage.records.side_events import OUTLIER, REJECTED, SOFT_FAILED, Gap, SideEvent

LOOKED_AT = 200
"""Of so many of the oldest events it is looked up what they follow upon."""
MAX_ASIDE = 1_000
"""Events beside the log that are gone through in search of what came before them."""
MAX_EDGE = 20

NOTED = frozenset({CREATE, ("m.room.power_levels", ""), ("m.room.history_visibility", "")})
"""Keys of the state that is noted beneath a batch, besides the memberships of local users."""


class Past:
    """Knows where the past of a room ends, and puts more before it."""

    def __init__(
        self,
        rooms: Rooms,
        events: GraphEvents,
        side_events: Collection[SideEvent],
        gaps: Collection[Gap],
        server_name: str,
    ) -> None:
        self._rooms = rooms
        self._events = events
        self._side = side_events
        self._gaps = gaps
        self._server_name = server_name

    async def edge(self, room: Room, gap: int) -> list[str]:
        """What the oldest events above a gap, and in it, follow upon and is not there, the oldest first."""
        read = self._rooms.log.page
        after, before = lower_end(gap), in_gap(gap, 0)
        oldest = await read(
            room.shard, room.room_id, kind=Kind.EVENT, after=after, before=before, limit=LOOKED_AT
        )
        if len(oldest) < LOOKED_AT:
            oldest += await read(room.shard, room.room_id, kind=Kind.EVENT, after=gap, limit=1)
        found = await self._events.get_many(room, [entry.event_id for entry in oldest if entry.event_id])
        there = [found[entry.event_id] for entry in oldest if entry.event_id in found]
        behind = dict.fromkeys(event_id for each in there for event_id in each.event.prev_events)
        seen: set[str] = set()
        edge: list[str] = []
        while behind and len(seen) < MAX_ASIDE:
            seen |= behind.keys()
            known = await self._events.get_many(room, list(behind))
            edge += [event_id for event_id in behind if event_id not in known or _is_outlier(known[event_id])]
            aside = (each.event for each in known.values() if each.standing in (REJECTED, SOFT_FAILED))
            behind = dict.fromkeys(
                event_id for each in aside for event_id in each.prev_events if event_id not in seen
            )
        return edge[:MAX_EDGE]

    async def there(self, room: Room, event_ids: Items[str]) -> set[str]:
        """Those of some events that the timeline has, or one of its gaps."""
        known = await self._events.get_many(room, event_ids)
        return {event_id for event_id, each in known.items() if each.position is not None}

    async def add(self, room: Room, gap: int, events: Sequence[Event], state: StateIds) -> bool:
        """Put events into a gap, below those that are there, the newest first; whether anything of it is new.

        Each comes after what follows upon it. All have come through the gate; `state` is that before the last
        of them, all of it known. What its auth events refuse is put aside, and what rests on the unknown left
        out. Raises StoreError, MatrixError 503.
        """
        lowest = room.gaps[gap]
        named = {auth_id for event in events for auth_id in auth_ids(event)}
        known = await self._events.get_many(room, {*named, *(event.event_id for event in events)})
        new = {event.event_id: event for event in events if event.event_id not in known}
        found = await asyncio.to_thread(standings, room, new, known)
        rejected = [event_id for event_id, standing in found.items() if standing == REJECTED]
        await self._side.put_many([side_event(new[event_id], REJECTED) for event_id in rejected])
        accepted = [
            event
            for event in events
            if found.get(event.event_id) == OUTLIER
            or ((each := known.get(event.event_id)) is not None and _is_outlier(each))
        ]
        if not accepted:
            return bool(rejected)
        noted = await self._noted(room, state)
        proposal = _Proposal(self._rooms, room, gap, lowest, accepted[::-1], noted, self._is_noted)
        added = await self._rooms.submit(room, proposal)
        for event in accepted:
            self._events.forget(room.room_id, event.event_id)
        for filled in await self._gaps.get_many([(room.room_id, event.event_id) for event in accepted]):
            await self._gaps.delete(room.room_id, filled.event_id)
        return added or bool(rejected)

    async def _noted(self, room: Room, state: StateIds) -> list[Event]:
        """The events of a state that are noted."""
        wanted = [event_id for key, event_id in state.items() if self._is_noted(key)]
        return [known.event for known in (await self._events.get_many(room, wanted)).values()]

    def _is_noted(self, key: StateKey) -> bool:
        type, user_id = key
        return key in NOTED or (type == "m.room.member" and has_user_of(self._server_name, [user_id]))


def _is_outlier(known: KnownEvent) -> bool:
    return known.standing == OUTLIER


class _Proposal:
    """The entries of a batch, the oldest first, unless another one was put there meanwhile."""

    def __init__(
        self,
        rooms: Rooms,
        room: Room,
        gap: int,
        lowest: int,
        events: Sequence[Event],
        noted: Sequence[Event],
        is_noted: Callable[[StateKey], bool],
    ) -> None:
        self._rooms = rooms
        self._room_id = room.room_id
        self._gap = gap
        self._lowest = lowest
        self._events = events
        self._noted = noted
        self._is_noted = is_noted
        self._is_added = False

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        room = self._rooms.cached(self._room_id)
        # Each batch has the position below it for the state beneath it.
        below = self._lowest - 2 - len(self._events)
        is_there = room is not None and room.gaps.get(self._gap) == self._lowest
        self._is_added = is_there and below > lower_end(self._gap)
        if room is None or not self._is_added:
            return []
        # Under a key that nothing stands under now it would become current.
        keys = room.head.state.keys() if self._gap == 0 else set[StateKey]()
        entries = [
            self._note(event, next_seq + n, below)
            for n, event in enumerate(
                event for event in self._noted if self._gap or event.state_tuple in keys
            )
        ]
        newest = {(entry.type, entry.key): entry.seq for entry in entries}
        for event in self._events:
            key = event.state_tuple if event.is_state else None
            is_keyed = key is None or key in keys
            meta = EventMeta(
                replaces=newest.get(key, 0) if key is not None else 0,
                state_key=None if is_keyed else event.state_key,
                redacts=misnamed_target(event),
            )
            seq, below = next_seq + len(entries), below + 1
            body = encode_event(event.version, event.pdu)
            entries.append(entry_of(event, body, meta, seq=seq, pos=below))
            if key is not None and is_keyed:
                newest[key] = seq
            elif key is not None and self._gap and self._is_noted(key):
                newest[key] = seq
                entries.append(self._note(event, seq + 1, below))
        return [Appended(entry) for entry in entries]

    def _note(self, event: Event, seq: int, position: int) -> Entry:
        """The entry of what an event made of its state key at a position."""
        entry = state_entry(self._room_id, *event.state_tuple, event, seq)
        return replace(entry, pos=position, kind=Kind.GAP_STATE if self._gap else Kind.STATE)

    def result(self) -> bool:
        return self._is_added

    def duplicate(self, existing: Entry) -> bool:
        # Another replica was first, or the event has come in another way.
        return False


class Link(NamedTuple):
    """An event in the graph."""

    previous: Sequence[str]
    depth: int


def linked(edge: Sequence[str], links: Mapping[str, Link]) -> list[str]:
    """Those of some events that are reached from an edge, each after all that follow upon it.

    What that leaves open is decided by the depth. Events that follow upon themselves are left out.
    """
    reached = list(dict.fromkeys(event_id for event_id in edge if event_id in links))
    followers = dict.fromkeys(reached, 0)
    for event_id in reached:
        for previous in _behind(event_id, links):
            if previous not in followers:
                reached.append(previous)
            followers[previous] = followers.get(previous, 0) + 1
    ready = [(-links[event_id].depth, event_id) for event_id in reached if not followers[event_id]]
    heapify(ready)
    ordered: list[str] = []
    while ready:
        _, event_id = heappop(ready)
        ordered.append(event_id)
        for previous in _behind(event_id, links):
            followers[previous] -= 1
            if not followers[previous]:
                heappush(ready, (-links[previous].depth, previous))
    return ordered


def _behind(event_id: str, links: Mapping[str, Link]) -> list[str]:
    return [previous for previous in dict.fromkeys(links[event_id].previous) if previous in links]
