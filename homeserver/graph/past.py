"""What was in a room before this server came in, as other servers have it.

The events lie in the log below all others, at positions below zero. Each batch of them has the state before
its oldest event noted beneath it, as far as it decides who may see the batch and what redactions in it do;
for the state before each event in between is not known here, and nothing that is sent now can rest on it.

spec: server-server "Backfilling and retrieving missing events"
"""

import asyncio
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from msgspec.structs import replace

from homeserver.graph.events import GraphEvents, KnownEvent
from homeserver.graph.outliers import auth_ids, side_event, standings
from homeserver.graph.receiving import state_entry
from homeserver.graph.states import CREATE, StateIds
from homeserver.protocol.events import Event
from homeserver.protocol.signing import encode_event
from homeserver.protocol.state_resolution import StateKey
from homeserver.rooms.event_entry import entry_of
from homeserver.rooms.event_meta import EventMeta
from homeserver.rooms.room import Room
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

    async def edge(self, room: Room) -> list[str]:
        """What the oldest events follow upon and is not there, the oldest first."""
        read = self._rooms.log.page
        oldest = await read(room.shard, room.room_id, kind=Kind.EVENT, before=1, limit=LOOKED_AT)
        if len(oldest) < LOOKED_AT:
            oldest += await read(room.shard, room.room_id, kind=Kind.EVENT, after=0, limit=1)
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

    async def add(self, room: Room, events: Sequence[Event], state: StateIds) -> bool:
        """Put events before the oldest one, the newest first; whether anything of it is new.

        Each comes after what follows upon it. All have come through the gate; `state` is that before the last
        of them, all of it known. What its auth events refuse is put aside, and what rests on the unknown left
        out. Raises StoreError, MatrixError 503.
        """
        past_from = room.past_from
        named = {auth_id for event in events for auth_id in auth_ids(event)}
        known = await self._events.get_many(room, {*named, *(event.event_id for event in events)})
        new = {event.event_id: event for event in events if event.event_id not in known}
        found = await asyncio.to_thread(standings, new, known)
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
        added = await self._rooms.submit(room, _Proposal(self._rooms, room, past_from, accepted[::-1], noted))
        for event in accepted:
            self._events.forget(room.room_id, event.event_id)
        for gap in await self._gaps.get_many([(room.room_id, event.event_id) for event in accepted]):
            await self._gaps.delete(room.room_id, gap.event_id)
        return added or bool(rejected)

    async def _noted(self, room: Room, state: StateIds) -> list[Event]:
        """The events of a state that are noted."""
        wanted = [event_id for key, event_id in state.items() if key in NOTED or self._is_own_member(key)]
        return [known.event for known in (await self._events.get_many(room, wanted)).values()]

    def _is_own_member(self, key: StateKey) -> bool:
        type, user_id = key
        return type == "m.room.member" and has_user_of(self._server_name, [user_id])


def _is_outlier(known: KnownEvent) -> bool:
    return known.standing == OUTLIER


class _Proposal:
    """The entries of a batch, the oldest first, unless another one was put there meanwhile."""

    def __init__(
        self, rooms: Rooms, room: Room, past_from: int, events: Sequence[Event], noted: Sequence[Event]
    ) -> None:
        self._rooms = rooms
        self._room_id = room.room_id
        self._past_from = past_from
        self._events = events
        self._noted = noted
        self._is_added = False

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        room = self._rooms.cached(self._room_id)
        self._is_added = room is not None and room.past_from == self._past_from
        if room is None or not self._is_added:
            return []
        # Each batch has the position below it for the state beneath it.
        below = self._past_from - 2 - len(self._events)
        entries = [
            replace(state_entry(self._room_id, *event.state_tuple, event, next_seq + n), pos=below)
            for n, event in enumerate(event for event in self._noted if event.state_tuple in room.head.state)
        ]
        newest = {(entry.type, entry.key): entry.seq for entry in entries}
        for event in self._events:
            key = event.state_tuple if event.is_state else None
            # Under a key that nothing stands under now it would become current.
            is_keyed = key is None or key in room.head.state
            meta = EventMeta(
                replaces=newest.get(key, 0) if key is not None else 0,
                state_key=None if is_keyed else event.state_key,
            )
            seq, below = next_seq + len(entries), below + 1
            body = encode_event(event.version, event.pdu)
            entries.append(entry_of(event, body, meta, seq=seq, pos=below))
            if key is not None and is_keyed:
                newest[key] = seq
        return [Appended(entry) for entry in entries]

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
