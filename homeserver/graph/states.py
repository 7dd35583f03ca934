"""The state of a room before and after its events, and what several of them resolve to.

A state is a map from keys to event ids; maps of one room share what they have in common.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import immutables

from homeserver.graph.events import GraphEvents, KnownEvent, StateDelta
from homeserver.protocol.event_auth import auth_event_keys
from homeserver.protocol.events import Event
from homeserver.protocol.state_resolution import StateKey, resolve
from homeserver.rooms.room import CREATE, Room, RoomHead
from storage.log import Kind, Log

KEPT = 500
AHEAD = 8
"""How many steps of auth events are read ahead when one of them is missed."""


StateIds = immutables.Map[StateKey, str]
NO_STATE: StateIds = immutables.Map()


class UnknownState(Exception):
    """The state at an event is not known: it is not in the graph as far as this server has it."""


class States:
    """Works states out; keeps those of events that were asked for lately."""

    def __init__(self, log: Log, events: GraphEvents) -> None:
        self._log = log
        self._events = events
        self._kept: OrderedDict[tuple[str, str, range], StateIds] = OrderedDict()
        """By room, event, and what was learnt late, by which all states are others."""

    async def at(self, room: Room, position: int) -> StateIds:
        """The room's own state at a position of its timeline."""
        newest = max((event.position for event in room.head.state.values()), default=0)
        # Above what was followed so far there may be what another replica has taken.
        if max(newest, room.resolved_at) <= position <= room.last_seq:
            return ids_of(room.head)
        refs = await self._log.current_at(room.shard, room.room_id, Kind.EVENT, position)
        return immutables.Map({(ref.type, ref.key): ref.event_id for ref in refs if ref.event_id})

    async def before(self, room: Room, known: KnownEvent) -> StateIds:
        """The state before an event. Raises UnknownState of outliers."""
        if not known.has_state:
            raise UnknownState(known.event.event_id)
        if known.base is None:
            assert known.position is not None
            return await self.at(room, known.position - 1)
        return changed(await self.at(room, known.base), known.delta)

    async def after(self, room: Room, event_ids: Iterable[str]) -> list[StateIds]:
        """The states after events. Raises UnknownState if one of them has none that is known."""
        wanted = list(event_ids)
        learnt = room.learnt
        missing = [event_id for event_id in wanted if (room.room_id, event_id, learnt) not in self._kept]
        known = await self._events.get_many(room, missing)
        states: list[StateIds] = []
        for event_id in wanted:
            key = (room.room_id, event_id, learnt)
            state = self._kept.get(key)
            if state is None:
                if event_id not in known:
                    raise UnknownState(event_id)
                state = await self._after(room, known[event_id])
                self._kept[key] = state
            self._kept.move_to_end(key)
            states.append(state)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return states

    async def _after(self, room: Room, known: KnownEvent) -> StateIds:
        state = await self.before(room, known)
        return state.set(known.event.state_tuple, known.event.event_id) if known.adds_to_state else state

    async def resolved(self, room: Room, states: Sequence[StateIds], new: Mapping[str, Event]) -> StateIds:
        """What the states resolve to; `new` has events that are not stored yet."""
        different = list(dict.fromkeys(states))
        if len(different) <= 1:
            # None: before the beginning.
            return different[0] if different else NO_STATE
        conflicted = {
            event_id
            for state in different
            for key, event_id in state.items()
            if any(other.get(key) != event_id for other in different)
        }
        loaded: dict[str, Event | None] = dict(new)
        rejected: set[str] = set()
        await self._load(room, conflicted, loaded, rejected)
        while True:
            try:
                resolved = resolve(room.version, different, _Loaded(loaded).get, rejected=rejected)
            except _NotLoaded as error:
                await self._load(room, {error.event_id}, loaded, rejected)
            else:
                return changed(different[0], differences(different[0], resolved))

    async def _load(
        self, room: Room, event_ids: set[str], loaded: dict[str, Event | None], rejected: set[str]
    ) -> None:
        """Read events, and some of those that they rest on; None stands for those that nobody has."""
        for _ in range(AHEAD):
            wanted = [event_id for event_id in event_ids if event_id not in loaded]
            found = await self._events.get_many(room, wanted)
            rejected |= {event_id for event_id, known in found.items() if known.is_rejected}
            loaded |= dict.fromkeys(wanted)
            loaded |= {event_id: known.event for event_id, known in found.items()}
            event_ids = {
                auth_id
                for event_id in event_ids
                if (event := loaded[event_id]) is not None
                for auth_id in event.auth_events
                if auth_id not in loaded
            }
            if not event_ids:
                return


class _NotLoaded(Exception):
    def __init__(self, event_id: str) -> None:
        super().__init__(event_id)
        self.event_id = event_id


class _Loaded:
    """Events in memory; says which one is missed."""

    def __init__(self, loaded: Mapping[str, Event | None]) -> None:
        self._loaded = loaded

    def get(self, event_id: str) -> Event | None:
        if event_id not in self._loaded:
            raise _NotLoaded(event_id)
        return self._loaded[event_id]


def ids_of(head: RoomHead) -> StateIds:
    """The state of a head."""
    return immutables.Map({key: event.event_id for key, event in head.state.items()})


def auth_keys(event: Event) -> list[StateKey]:
    """The keys of a state that the auth rules look at for an event."""
    named = auth_event_keys(event.version, event.type, event.sender, event.state_key, event.content)
    return [*named, CREATE] if CREATE not in named else named


def differences(state: StateIds, other: Mapping[StateKey, str]) -> StateDelta:
    """What makes `other` out of `state`."""
    gone = [(*key, None) for key in state if key not in other]
    return [*gone, *((*key, event_id) for key, event_id in other.items() if state.get(key) != event_id)]


def changed(state: StateIds, delta: StateDelta) -> StateIds:
    """A state with these changes."""
    if not delta:
        return state
    changing = state.mutate()
    for type, key, event_id in delta:
        if event_id is None:
            changing.pop((type, key), None)
        else:
            changing[type, key] = event_id
    return changing.finish()
