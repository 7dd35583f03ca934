"""Taking an event of another server into a room: the checks of the specification, in its order.

spec: server-server#checks-performed-on-receipt-of-a-pdu, of which signatures and hashes come before. What the
event follows upon must be known here; fetching what is missing is for the caller.

    rejected     by its auth events, or by the state before it: kept beside the log, part of no state
    soft-failed  by the state of the room now, or by its policy server, or for being a redaction that redacts
                 nothing: kept beside the log, and part of the state behind it
    accepted     in the room's timeline

Most events follow upon all that there is (`onward`). Of the others the states before and after are worked out
first, and hold for as long as nothing else has happened in the room.
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import structlog
from msgspec.structs import replace

from homeserver.errors import MatrixError, unavailable
from homeserver.graph.early_redactions import EarlyRedactions, is_early_redaction
from homeserver.graph.events import GraphEvents, KnownEvent, StateDelta
from homeserver.graph.onward import Onward
from homeserver.graph.outliers import auth_ids, creates_again, refused_by_auth_events
from homeserver.graph.redacting import is_vain, redacted_by, redacted_event, redacts_key
from homeserver.graph.states import StateIds, States, auth_keys, changed, differences, ids_of
from homeserver.protocol.event_auth import is_allowed, lookup_in
from homeserver.protocol.events import Event
from homeserver.protocol.signing import encode_event
from homeserver.protocol.visibility import HistoryVisibility, View, may_see, parse_visibility
from homeserver.rooms.event_entry import event_entry
from homeserver.rooms.event_meta import EventMeta
from homeserver.rooms.policy import Policy
from homeserver.rooms.room import VISIBILITY, Room, RoomHead, view_of
from homeserver.rooms.rooms import Rooms
from homeserver.shard_writer import Appended, Drafts
from storage.collection import Collection
from storage.log import Entry, Kind
from storage.records.side_events import OUTLIER, REJECTED, SOFT_FAILED, Gap, SideEvent

log = structlog.get_logger(__name__)

ATTEMPTS = 20
"""How often an event is prepared anew because others were faster."""
MAX_NEWCOMERS = 1_000
"""Members noted with an event that was said before they came, at most."""
MAX_COVERED = 1_000
"""Events put aside that are gone through in search of extremities."""


class Outcome(Enum):
    ACCEPTED = "accepted"
    SOFT_FAILED = SOFT_FAILED
    REJECTED = REJECTED


class Missing(Exception):
    """Events that have to be known first: `prev_events` in the graph, `auth_events` at all."""

    def __init__(self, prev_events: Sequence[str], auth_events: Sequence[str]) -> None:
        super().__init__(f"missing {[*prev_events, *auth_events]}")
        self.prev_events = prev_events
        self.auth_events = auth_events


class _Incoming(NamedTuple):
    """An event, and what does not change about it while it is prepared."""

    event: Event
    previous: Sequence[KnownEvent]
    """What it follows upon, as far as that is known."""
    told: StateIds | None
    refused: bool
    """What refuses it by its own auth events refuses it for ever, and so does what the room began with."""
    redacted: Event | None
    """Of a redaction: what it redacts, if that is known."""
    is_early: bool
    """Whether it redacts something that is not there."""
    relay: bool


class _Before(NamedTuple):
    """The state before an event."""

    state: StateIds
    base: int
    delta: StateDelta
    """See `EventMeta`."""


class _Fork(NamedTuple):
    """What an event is in a room that it does not follow upon as a whole."""

    head: RoomHead
    """Of the room as it was when this was worked out."""
    meta: EventMeta
    changes: Sequence[tuple[str, str, Event | None]]
    """Keys of the room's state that the event changes, but for its own if it becomes current there."""
    fills_gap: bool
    leaves_gap: bool


class Receiver:
    """Takes events of other servers, one after another per room."""

    def __init__(
        self,
        rooms: Rooms,
        events: GraphEvents,
        states: States,
        side_events: Collection[SideEvent],
        gaps: Collection[Gap],
        early_redactions: EarlyRedactions,
        policy: Policy,
    ) -> None:
        self._rooms = rooms
        self._events = events
        self._states = states
        self._side = side_events
        self._gaps = gaps
        self._early_redactions = early_redactions
        self._policy = policy
        self._onward = Onward(rooms, events)

    async def receive(
        self, room: Room, event: Event, told: StateIds | None = None, *, relay: bool = False
    ) -> Outcome:
        """Take an event whose signatures and hash are right; what became of it, now or when it came before.

        `told` is the state before it as another server tells it, for an event that follows upon some that
        cannot be had; those are noted as gaps. All that it names is known. `relay`: see `EventMeta`.

        Raises Missing, and MatrixError 503.
        """
        for _ in range(ATTEMPTS):
            if await self._onward.take(room, [event], relay=relay):
                return Outcome.ACCEPTED
            incoming = await self._looked_up(room, event, told, relay)
            if isinstance(incoming, Outcome):
                return incoming
            outcome = await self._attempt(room, incoming)
            if outcome is not None:
                self._events.forget(room.room_id, event.event_id)
                return outcome
        raise unavailable("The room is too busy")

    async def receive_all(self, room: Room, events: Sequence[Event]) -> list[Outcome | Missing]:
        """Take events one after the other, as many together as can be; what became of each.

        Raises MatrixError 503.
        """
        outcomes: list[Outcome | Missing] = []
        while len(outcomes) < len(events):
            taken = await self._onward.take(room, events[len(outcomes) :])
            outcomes += [Outcome.ACCEPTED] * taken
            if not taken:
                try:
                    outcomes.append(await self.receive(room, events[len(outcomes)]))
                except Missing as missing:
                    outcomes.append(missing)
        return outcomes

    async def _looked_up(
        self, room: Room, event: Event, told: StateIds | None, relay: bool
    ) -> _Incoming | Outcome:
        authorising = auth_ids(event)
        wanted = {event.event_id, *event.prev_events, *authorising}
        if event.redacts is not None:
            wanted.add(event.redacts)
        around = await self._events.get_many(room, wanted)
        known = around.get(event.event_id)
        if known is not None and known.standing != OUTLIER:
            return Outcome.ACCEPTED if known.standing is None else Outcome(known.standing)
        creates = creates_again(room, event)
        if event.type == "m.room.create" and not creates:
            # The room has it. Its place is before all that came later, with the past.
            return Outcome.ACCEPTED
        previous = [
            each for event_id in event.prev_events if (each := around.get(event_id)) and each.has_state
        ]
        there = {each.event.event_id for each in previous}
        missing_prev = [event_id for event_id in event.prev_events if event_id not in there]
        missing_auth = [event_id for event_id in authorising if event_id not in around]
        if missing_auth or (missing_prev and told is None):
            raise Missing(missing_prev, missing_auth)
        if missing_prev:
            await self._gaps.put_many([Gap(room_id=room.room_id, event_id=each) for each in missing_prev])
        refused = creates or refused_by_auth_events(event, [around[auth_id] for auth_id in authorising])
        told = told if missing_prev else None
        is_early = is_early_redaction(event, around)
        return _Incoming(event, previous, told, refused, redacted_by(event, around), is_early, relay)

    async def _attempt(self, room: Room, incoming: _Incoming) -> Outcome | None:
        """What became of the event; None when others were faster."""
        event, head = incoming.event, room.head
        before = await self._before(room, incoming)
        standing = REJECTED if incoming.refused else await self._standing(room, head, incoming, before.state)
        if standing is None:
            try:
                event = await self._policy.signed(room, head, event)
            except MatrixError as error:
                log.info("an event is not recommended", event_id=event.event_id, reason=error.error)
                standing = SOFT_FAILED
            incoming = incoming._replace(event=event)
        if standing == SOFT_FAILED:
            # For good, by what is so now: another replica may have changed that.
            await self._rooms.catch_up(room)
            if room.head is not head:
                return None
        if standing is not None:
            await self._put_aside(event, standing, before.base, before.delta)
            return Outcome(standing)
        if incoming.is_early:
            await self._early_redactions.note(event)
        fork = await self._fork(room, head, event, before)
        outcome = await self._rooms.submit(room, _Proposal(room, incoming, fork))
        if outcome is not None and fork.fills_gap:
            await self._gaps.delete(room.room_id, event.event_id)
        return outcome

    async def _before(self, room: Room, incoming: _Incoming) -> _Before:
        known = [each.event.event_id for each in incoming.previous]
        ends = await self._states.after(room, known)
        if incoming.told is not None:
            ends.append(incoming.told)
        state = await self._states.resolved(room, ends, {})
        newest = room.timeline[-1].position if room.timeline else 0
        base = max((each.position for each in incoming.previous if each.position is not None), default=newest)
        return _Before(state, base, differences(await self._states.at(room, base), state))

    async def _standing(
        self, room: Room, head: RoomHead, incoming: _Incoming, before: StateIds
    ) -> str | None:
        """As what the event is put aside; None if it is allowed by the state before it and by that now."""
        event = incoming.event
        keys = auth_keys(event)
        stood = await self._events.get_many(room, [before[key] for key in keys if key in before])
        if not is_allowed(event.version, event, lookup_in(known.event for known in stood.values())):
            return REJECTED
        if not is_allowed(event.version, event, head.lookup) or is_vain(event, incoming.redacted, head):
            return SOFT_FAILED
        return SOFT_FAILED if incoming.is_early and await self._is_of_another_room(event) else None

    async def _is_of_another_room(self, redaction: Event) -> bool:
        """Whether what it names is in another room. In versions 1 and 2 rooms may have the same ids."""
        assert redaction.redacts is not None
        if not redaction.version.event_ids_are_hashes:
            return False
        return await self._rooms.log.find_event(redaction.redacts) is not None

    async def _fork(self, room: Room, head: RoomHead, event: Event, before: _Before) -> _Fork:
        after = changed(before.state, [(*event.state_tuple, event.event_id)] if event.is_state else [])
        covered, is_complete = await self._covered(room, event)
        tips = tuple(tip for tip in head.tips if tip not in covered)
        ends = await self._states.after(room, tips)
        # Of an event that was a gap the room has what follows upon it.
        fills_gap = await self._gaps.get(room.room_id, event.event_id) is not None
        if not fills_gap:
            tips = (*tips, event.event_id)
            ends.append(after)
        # As it is stored and read from then on.
        redaction = await self._early_redactions.of(event, head)
        counts = event if redaction is None else redacted_event(event)
        resolved = await self._states.resolved(room, ends, {event.event_id: counts})
        current = not event.is_state or resolved.get(event.state_tuple) == event.event_id
        now = ids_of(head)
        if event.is_state and current:
            now = now.set(event.state_tuple, event.event_id)
        wanted = differences(now, resolved)
        events = await self._events.get_many(room, [event_id for *_, event_id in wanted if event_id])
        changes = [
            (type, key, events[event_id].event if event_id is not None else None)
            for type, key, event_id in wanted
        ]
        meta = EventMeta(
            tips=tips,
            base=before.base,
            delta=tuple(before.delta),
            state_key=None if current else event.state_key,
            redacted_by=redaction,
            setting=await self._setting(room, event, before.state, head),
            newcomers=await self._newcomers(room, event, before.state, head),
        )
        return _Fork(head, meta, changes, fills_gap, leaves_gap=not is_complete)

    async def _setting(self, room: Room, event: Event, before: StateIds, head: RoomHead) -> str | None:
        """The history visibility before an event, if that is not the one at the head, nor what it changes."""
        event_id = before.get(VISIBILITY)
        changes_it = event.is_state and event.state_tuple == VISIBILITY
        if changes_it or event_id == ids_of(head).get(VISIBILITY):
            return None
        return await self._visibility_in(room, before)

    async def _visibility_in(self, room: Room, state: StateIds) -> HistoryVisibility:
        event_id = state.get(VISIBILITY)
        known = await self._events.get_many(room, [event_id] if event_id is not None else [])
        content = known[event_id].event.content if event_id in known else {}
        return parse_visibility(content.get("history_visibility"))

    async def _newcomers(self, room: Room, event: Event, before: StateIds, head: RoomHead) -> tuple[str, ...]:
        """Who is in the room at the head, and may not see an event by its own state.

        Who came since is told apart by the room's timeline alone where they are too many.
        """
        settings = [await self._visibility_in(room, before)]
        own = event.state_tuple if event.is_state else None
        if own == VISIBILITY:
            settings.append(parse_visibility(event.content.get("history_visibility")))
        if not {HistoryVisibility.SHARED, HistoryVisibility.WORLD_READABLE}.isdisjoint(settings):
            return ()
        was = {
            key: event_id
            for type, key, event_id in differences(ids_of(head), before)
            if type == "m.room.member" and key in room.joined and (type, key) != own
        }
        if len(was) > MAX_NEWCOMERS:
            return ()
        known = await self._events.get_many(room, [each for each in was.values() if each is not None])
        newcomers: list[str] = []
        for user_id, event_id in was.items():
            content = known[event_id].event.content if event_id in known else {}
            views = [View(setting, content.get("membership", "leave")) for setting in settings]
            if not may_see(views[0], views[-1], joins_later=True):
                newcomers.append(user_id)
        return tuple(newcomers)

    async def _covered(self, room: Room, event: Event) -> tuple[set[str], bool]:
        """The events that are no extremities any more: what this one follows upon, be it by way of events
        that are none themselves. And whether none of them is missing, or history."""
        covered: set[str] = set()
        is_complete = True
        behind = set(event.prev_events)
        while behind and len(covered) < MAX_COVERED:
            covered |= behind
            known = await self._events.get_many(room, behind)
            is_complete &= sum(each.has_state for each in known.values()) == len(behind)
            aside = (each.event for each in known.values() if each.standing in (REJECTED, SOFT_FAILED))
            behind = {event_id for each in aside for event_id in each.prev_events} - covered
        return covered, is_complete

    async def _put_aside(self, event: Event, standing: str, base: int, delta: StateDelta) -> None:
        await self._side.put(
            SideEvent(
                room_id=event.room_id,
                event_id=event.event_id,
                body=encode_event(event.version, event.pdu),
                standing=standing,
                base=base,
                delta=tuple(delta),
            )
        )


class _Proposal:
    """The entries of an event, if the room is still what it was taken to be."""

    def __init__(self, room: Room, incoming: _Incoming, fork: _Fork) -> None:
        self._room = room
        self._event = incoming.event
        self._fork = fork
        self._meta = replace(fork.meta, redacts_key=redacts_key(incoming.redacted), relay=incoming.relay)
        self._is_taken = False

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        event, fork = self._event, self._fork
        head: RoomHead = drafts.get(self._room.room_id) or self._room.head
        self._is_taken = fork.head is head
        if not self._is_taken:
            return []
        built: list[Appended] = []
        if fork.leaves_gap:
            built.append(Appended(Entry(Kind.GAP, event.room_id, seq=next_seq)))
        for type, key, current in fork.changes:
            entry = state_entry(event.room_id, type, key, current, next_seq + len(built))
            if current is None:
                head = head.without((type, key))
                built.append(Appended(entry))
            else:
                view = view_of(entry, EventMeta(), head.state)
                head = head._replace(state=head.state.set((type, key), view))
                built.append(Appended(entry, view))
        stored = event if self._meta.redacted_by is None else redacted_event(event)
        body = encode_event(event.version, stored.pdu)
        item, after = event_entry(event, body, head, next_seq + len(built), self._meta)
        drafts[self._room.room_id] = after
        return [*built, item]

    def result(self) -> Outcome | None:
        return Outcome.ACCEPTED if self._is_taken else None

    def duplicate(self, existing: Entry) -> Outcome | None:
        return Outcome.ACCEPTED


def state_entry(
    room_id: str, type: str, key: str, current: Event | None, seq: int = 0, *, meta: bytes = b""
) -> Entry:
    """The entry that makes an event current under a key of the room's state, or none."""
    if current is None:
        return Entry(Kind.STATE, room_id, type=type, key=key, seq=seq)
    return Entry(
        Kind.STATE,
        room_id,
        encode_event(current.version, current.pdu),
        type=type,
        key=key,
        sender=current.sender,
        target=current.event_id,
        ts=current.origin_server_ts,
        meta=meta,
        seq=seq,
    )
