"""The past of rooms from when this server was not in them, got from the servers that have it.

One server after the other is asked, those with many users in the room first. What it gives counts as far as
it hangs together: events that the oldest ones here follow upon, those before them, and so on, down to what
this server has from an earlier stay. An event whose servers cannot be asked for their keys any more stays
away, and does not cut off what lies before it.

spec: server-server "Backfilling and retrieving missing events"
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import structlog

from federation.client import FederationClient, request_target
from federation.errors import FederationError, InvalidAnswer
from federation.gate import Gate
from federation.missing_events import MissingEvents
from homeserver.clock import Clock
from homeserver.graph.events import GraphEvents
from homeserver.graph.outliers import auth_ids, creates_again
from homeserver.graph.past import Link, Past, linked
from homeserver.graph.states import StateIds
from homeserver.protocol.events import Event
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.room import Room
from homeserver.rooms.servers import takes_part
from homeserver.rooms.told_servers import others_in
from homeserver.single_flight import SingleFlight

log = structlog.get_logger(__name__)

V1 = "/_matrix/federation/v1"
BATCH = 100
MAX_BYTES = 16 * 1024 * 1024
MAX_SERVERS = 8
"""So many servers are asked for one batch."""
ANSWER_SECONDS = 15.0
SECONDS = 40.0
"""For all attempts together: somebody waits."""
ROUNDS = 10
"""Batches that are fetched in a row while nothing of them may be shown to anybody."""
CHAINS = 10
"""Events of a batch for which it is asked what they rest on."""
VAIN_MS = 60_000
"""How long nobody is asked again for what nobody had."""
VAIN_KEPT = 1_000


class Backfill:
    """Implements `homeserver.rooms.earlier.EarlierEvents`."""

    def __init__(
        self,
        server_name: str,
        client: FederationClient,
        gate: Gate,
        missing: MissingEvents,
        events: GraphEvents,
        past: Past,
        now: Clock,
    ) -> None:
        self._server_name = server_name
        self._client = client
        self._gate = gate
        self._missing = missing
        self._events = events
        self._past = past
        self._now = now
        self._flights: SingleFlight[tuple[str, int], bool] = SingleFlight()
        self._vain: OrderedDict[tuple[str, int], int] = OrderedDict()
        """Room and gap → until when nobody is asked."""

    async def fetch(self, room: Room, gap: int) -> bool:
        if not takes_part(room, self._server_name):
            return False
        if self._vain.get((room.room_id, gap), 0) > self._now():
            return False
        return await self._flights.run((room.room_id, gap), lambda: self._fetch(room, gap))

    async def close(self) -> None:
        """Give up what is being fetched."""
        await self._flights.close()

    async def _fetch(self, room: Room, gap: int) -> bool:
        before = room.gaps[gap]
        try:
            async with asyncio.timeout(SECONDS):
                for _ in range(ROUNDS):
                    if not await self._fetch_some(room, gap):
                        break
                    if room.gaps[gap] < before and not room.begins_in(gap):
                        break
                    # With the room's beginning nobody asks again: branches beside it are fetched now.
        except TimeoutError:
            log.info("the past of a room could not be had in time", room=room.room_id)
        if room.gaps[gap] == before:
            self._vain[room.room_id, gap] = self._now() + VAIN_MS
            if len(self._vain) > VAIN_KEPT:
                self._vain.popitem(last=False)
        return room.gaps[gap] < before

    async def _fetch_some(self, room: Room, gap: int) -> bool:
        """One batch from the first server that has one; whether anything in it was new."""
        edge = await self._past.edge(room, gap)
        others = sorted(
            others_in(self._server_name, room), key=lambda server: (-room.servers[server], server)
        )
        for server in others[:MAX_SERVERS] if edge else ():
            try:
                if await self._fetch_from(server, room, gap, edge):
                    return True
            except FederationError as error:
                log.debug("a server does not give the past of a room", room=room.room_id, error=str(error))
        return False

    async def _fetch_from(self, server: str, room: Room, gap: int, edge: Sequence[str]) -> bool:
        target = request_target(f"{V1}/backfill", room.room_id, query={"v": edge, "limit": str(BATCH)})
        answer = await self._client.get(server, target, seconds=ANSWER_SECONDS, max_bytes=MAX_BYTES)
        pdus = answer.get("pdus")
        if not isinstance(pdus, list):
            raise InvalidAnswer(server, "pdus is missing")
        events = await self._hanging_together(room, edge, pdus[:BATCH])
        if not events:
            return False
        state = await self._state_before(server, room, events[-1])
        await self._complete(server, room, events)
        return await self._past.add(room, gap, events, state)

    async def _hanging_together(self, room: Room, edge: Sequence[str], pdus: Sequence[Any]) -> list[Event]:
        """The events that are believed of an answer, the newest first."""
        admitted: dict[str, Event] = {}
        links: dict[str, Link] = {}
        for pdu, each in zip(pdus, await self._gate.admit(room.version, room.room_id, pdus), strict=True):
            if isinstance(each, Event):
                admitted[each.event_id] = each
                links[each.event_id] = Link(each.prev_events, each.depth)
            elif each.event_id is not None and room.version.event_ids_are_hashes:
                # Its id says that this is what others follow upon, whether or not it is signed.
                links[each.event_id] = _claimed(pdu)
        # What comes before those that are there is in another gap.
        for event_id in await self._past.there(room, links):
            del links[event_id]
        return [
            admitted[event_id]
            for event_id in linked(edge, links)
            if event_id in admitted and not creates_again(room, admitted[event_id])
        ]

    async def _state_before(self, server: str, room: Room, oldest: Event) -> StateIds:
        if oldest.type == "m.room.create":
            return StateIds()
        return await self._missing.told_state(room, oldest, server)

    async def _complete(self, server: str, room: Room, events: Sequence[Event]) -> None:
        """Have known what events rest on, apart from one another."""
        there = {event.event_id for event in events}
        named = {auth_id for event in events for auth_id in auth_ids(event)} - there
        chains = 0
        for event in reversed(events):
            unknown = named - (await self._events.get_many(room, named)).keys()
            if not unknown or chains >= CHAINS:
                return
            if not unknown.isdisjoint(auth_ids(event)):
                chains += 1
                await self._missing.fetch_auth_chain(room, event, server)


def _claimed(pdu: JsonObject) -> Link:
    """What an event that was not let in says of its place in the graph."""
    previous, depth = pdu.get("prev_events"), pdu.get("depth")
    return Link(
        [each for each in previous if isinstance(each, str)] if isinstance(previous, list) else [],
        depth if type(depth) is int else 0,
    )
