"""Getting what an event follows upon, and what it rests on, from the server that sent it.

First the events in between are asked for, within bounds. What they do not reach down to is a gap: above it an
event is taken with the state before it as the other server tells it. All of it goes through the gate, and
through the checks of a room.

spec: server-server#backfilling-and-retrieving-missing-events, #retrieving-events
"""

import asyncio
from collections.abc import Collection as Items
from collections.abc import Mapping, Sequence, Set
from graphlib import CycleError, TopologicalSorter
from typing import Any

import immutables

from federation.client import FederationClient, request_target
from federation.errors import InvalidAnswer, RemoteError
from federation.gate import Gate, claimed_id
from homeserver.graph.events import GraphEvents
from homeserver.graph.outliers import Outliers
from homeserver.graph.receiving import Missing, Outcome, Receiver
from homeserver.graph.states import StateIds
from homeserver.protocol.events import Event
from homeserver.protocol.identifiers import InvalidIdentifier, check_event_id
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.room import CREATE, Room

V1 = "/_matrix/federation/v1"
MAX_BETWEEN = 20
"""Events asked for in one go between those that are there and one that came."""
MAX_BATCH = 100
MAX_BATCH_BYTES = 16 * 1024 * 1024
MOST_BETWEEN = 2_000
"""So many are fetched at all; what lies before them is a gap."""
TOLD_STATES = 3
"""Of so many of them the state before is asked for."""
MAX_STATE = 100_000
"""Events that a state may have, with what it rests on."""
MAX_STATE_BYTES = 128 * 1024 * 1024
FEW = 100
"""So many events of a state are asked for one by one; of more, the whole state is."""
AT_ONCE = 10


class MissingEvents:
    """Completes rooms with what other servers have of them."""

    def __init__(
        self,
        client: FederationClient,
        gate: Gate,
        receiver: Receiver,
        events: GraphEvents,
        outliers: Outliers,
    ) -> None:
        self._client = client
        self._gate = gate
        self._receiver = receiver
        self._events = events
        self._outliers = outliers

    async def receive(self, room: Room, event: Event, server: str, *, relay: bool = False) -> Outcome:
        """Take an event that has come through the gate, with what it needs and `server` has.

        `relay`: see `EventMeta`. Raises FederationError, Missing if the server does not give it, StoreError,
        MatrixError 503.
        """
        try:
            return await self._receiver.receive(room, event, relay=relay)
        except Missing as missing:
            waiting = await self._behind_event(room, event, server) if missing.prev_events else []
        for _ in range(TOLD_STATES):
            outcomes = await self._receiver.receive_all(room, waiting)
            waiting = [
                each for each, what in zip(waiting, outcomes, strict=True) if isinstance(what, Missing)
            ]
            if not waiting:
                break
            try:
                await self._take(room, waiting[0], server)
            except RemoteError:
                # It may have come into the room later: of the event that it sent it knows what was before.
                del waiting[0]
        return await self._take(room, event, server, relay=relay)

    async def _behind_event(self, room: Room, event: Event, server: str) -> list[Event]:
        """What lies behind an event, as far as the server gives it, which has the event by then."""
        between = await self._between(room, event, server)
        known = await self._events.get_many(room, event.prev_events)
        there = {event_id for event_id, each in known.items() if each.has_state}
        if there.union(each.event_id for each in between).issuperset(event.prev_events):
            return between
        # It may have heard of the event only after it was asked. That it tells the state proves that it has.
        await self.told_state(room, event, server)
        return await self._between(room, event, server)

    async def _take(self, room: Room, event: Event, server: str, *, relay: bool = False) -> Outcome:
        """Take an event, be it with the state before it as the server tells it."""
        try:
            return await self._receiver.receive(room, event, relay=relay)
        except Missing as missing:
            told = None
            if missing.prev_events:
                told = await self.told_state(room, event, server)
            else:
                await self.fetch_auth_chain(room, event, server)
        return await self._receiver.receive(room, event, told, relay=relay)

    async def _between(self, room: Room, event: Event, server: str) -> list[Event]:
        """What lies between those that are there and an event, in order, as far as the server gives it."""
        answer = await self._client.post(
            server,
            request_target(f"{V1}/get_missing_events", room.room_id),
            {
                "earliest_events": list(room.head.tips),
                "latest_events": [event.event_id],
                "limit": MAX_BETWEEN,
                "min_depth": 0,
            },
        )
        found: dict[str, Event] = {}
        pdus: Sequence[JsonObject] = _list(server, answer, "events")
        found |= await self._new(room, pdus, found)
        while pdus := await self._behind(room, event, found, server):
            new = await self._new(room, pdus, found)
            if not new:
                break
            found |= new
        between, _ = _reached(event, found)
        return _in_order(between)

    async def _new(self, room: Room, pdus: Sequence[JsonObject], found: Items[str]) -> dict[str, Event]:
        """Those of the events that are neither there nor found, and have come through the gate."""
        events = await self._gate.admitted(room.version, room.room_id, pdus[:MAX_BATCH])
        known = await self._events.get_many(room, [each.event_id for each in events])
        there = {event_id for event_id, each in known.items() if each.has_state}
        return {
            each.event_id: each
            for each in events
            if each.event_id not in there and each.event_id not in found
        }

    async def _behind(
        self, room: Room, event: Event, found: Mapping[str, Event], server: str
    ) -> Sequence[JsonObject]:
        """What the server gives of what lies behind an event, where it is neither there nor found."""
        _, behind = _reached(event, found)
        known = await self._events.get_many(room, behind)
        wanted = [each for each in behind if each not in known or not known[each].has_state]
        if not wanted or len(found) >= MOST_BETWEEN:
            return ()
        query = {"v": wanted[:MAX_BETWEEN], "limit": str(MAX_BATCH)}
        target = request_target(f"{V1}/backfill", room.room_id, query=query)
        try:
            return _list(server, await self._client.get(server, target, max_bytes=MAX_BATCH_BYTES), "pdus")
        except RemoteError:
            return ()

    async def fetch_auth_chain(self, room: Room, event: Event, server: str) -> None:
        """Have what an event rests on known, as far as the server gives it.

        Raises FederationError, StoreError.
        """
        answer = await self._client.get(
            server,
            request_target(f"{V1}/event_auth", room.room_id, event.event_id),
            max_bytes=MAX_STATE_BYTES,
        )
        await self._keep(room, _list(server, answer, "auth_chain"))

    async def told_state(self, room: Room, event: Event, server: str) -> StateIds:
        """The state before an event as the server tells it; all of it is known when this returns.

        Raises FederationError, StoreError.
        """
        query = {"event_id": event.event_id}
        answer = await self._client.get(
            server, request_target(f"{V1}/state_ids", room.room_id, query=query), max_bytes=MAX_STATE_BYTES
        )
        state_ids = _event_ids(server, answer, "pdu_ids")
        wanted = {*state_ids, *_event_ids(server, answer, "auth_chain_ids"), *event.auth_events}
        unknown = wanted - (await self._events.get_many(room, wanted)).keys()
        if 0 < len(unknown) <= FEW:
            await self._keep(room, await self._fetch(server, unknown))
            # Some it may not give one by one.
            unknown = wanted - (await self._events.get_many(room, wanted)).keys()
        if unknown:
            told = await self._whole_state(room, event, server)
            await self._keep(room, await asyncio.to_thread(_without, room.version, told, wanted - unknown))
        known = await self._events.get_many(room, state_ids)
        state: StateIds = immutables.Map(
            {
                each.event.state_tuple: event_id
                for event_id, each in known.items()
                if each.event.is_state and not each.is_rejected
            }
        )
        # On a state without it every event is rejected, and for ever.
        if state.get(CREATE) != room.head.state[CREATE].event_id:
            raise InvalidAnswer(server, "the state it tells is none of the room")
        return state

    async def _whole_state(self, room: Room, event: Event, server: str) -> list[Any]:
        target = request_target(f"{V1}/state", room.room_id, query={"event_id": event.event_id})
        try:
            whole = await self._client.get(server, target, max_bytes=MAX_STATE_BYTES)
        except RemoteError:
            return []
        return _list(server, whole, "pdus") + _list(server, whole, "auth_chain")

    async def _fetch(self, server: str, event_ids: Items[str]) -> list[Any]:
        """Single events, those of them that the server gives."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def fetch(event_id: str) -> list[Any]:
            async with slots:
                try:
                    answer = await self._client.get(server, request_target(f"{V1}/event", event_id))
                except RemoteError:
                    return []
            return _list(server, answer, "pdus")[:1]

        return [pdu for pdus in await asyncio.gather(*map(fetch, event_ids)) for pdu in pdus]

    async def _keep(self, room: Room, pdus: Sequence[JsonObject]) -> None:
        events = await self._gate.admitted(room.version, room.room_id, pdus)
        await self._outliers.add(room, events)


def _reached(event: Event, found: Mapping[str, Event]) -> tuple[dict[str, Event], set[str]]:
    """Those of the found events that lie behind one, and what they follow upon that is not found."""
    between: dict[str, Event] = {}
    ends: set[str] = set()
    waiting = list(event.prev_events)
    while waiting:
        event_id = waiting.pop()
        if event_id not in found:
            ends.add(event_id)
        elif event_id not in between:
            between[event_id] = found[event_id]
            waiting += found[event_id].prev_events
    return between, ends


def _in_order(found: Mapping[str, Event]) -> list[Event]:
    """Events after those that they follow upon; none, if they follow upon themselves."""
    behind = {
        event_id: [each for each in event.prev_events if each in found] for event_id, event in found.items()
    }
    try:
        return [found[event_id] for event_id in TopologicalSorter(behind).static_order()]
    except CycleError:
        return []


def _without(version: RoomVersion, pdus: Sequence[JsonObject], known: Set[str]) -> list[JsonObject]:
    """PDUs without the events that are known: to look at an event closely takes longer than to name it."""
    return [pdu for pdu in pdus if claimed_id(version, pdu) not in known]


def _list(server: str, answer: JsonObject, key: str) -> list[Any]:
    found = answer.get(key)
    if not isinstance(found, list) or len(found) > MAX_STATE:
        raise InvalidAnswer(server, f"{key} is missing, or no list of at most {MAX_STATE}")
    return found


def _event_ids(server: str, answer: JsonObject, key: str) -> list[str]:
    found = _list(server, answer, key)
    try:
        return [check_event_id(event_id) for event_id in found if isinstance(event_id, str)]
    except InvalidIdentifier as error:
        raise InvalidAnswer(server, str(error)) from None
