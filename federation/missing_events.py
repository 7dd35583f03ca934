"""Getting what an event follows upon, and what it rests on, from the server that sent it.

First the events in between are asked for, a few. If that closes no gap, the event is taken with the state
before it as the other server tells it: whatever lies in the gap is for backfilling. All of it goes through
the gate, and through the checks of a room.

spec: server-server#backfilling-and-retrieving-missing-events, #retrieving-events
"""

import asyncio
from collections.abc import Collection as Items
from collections.abc import Sequence
from typing import Any

import immutables

from federation.client import FederationClient, request_target
from federation.errors import InvalidAnswer, RemoteError
from federation.gate import Gate
from homeserver.graph.events import GraphEvents
from homeserver.graph.outliers import Outliers
from homeserver.graph.receiving import Missing, Outcome, Receiver
from homeserver.graph.states import StateIds
from homeserver.protocol.events import Event
from homeserver.protocol.identifiers import InvalidIdentifier, check_event_id
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.room import Room

V1 = "/_matrix/federation/v1"
MAX_BETWEEN = 20
"""Events asked for in one go between those that are there and one that came."""
ROUNDS = 5
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

    async def receive(self, room: Room, event: Event, server: str) -> Outcome:
        """Take an event that has come through the gate, with what it needs and `server` has.

        Raises FederationError, Missing if the server does not give it, StoreError, MatrixError 503.
        """
        for _ in range(ROUNDS):
            try:
                return await self._receiver.receive(room, event)
            except Missing as missing:
                if missing.prev_events and await self._fill(room, event, server):
                    continue
                if not missing.prev_events:
                    await self._fetch_auth_chain(room, event, server)
                    return await self._receiver.receive(room, event)
                break
        return await self._receiver.receive(room, event, await self._told_state(room, event, server))

    async def _fill(self, room: Room, event: Event, server: str) -> bool:
        """Take the events just before one; whether there was one that is new."""
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
        between = await self._gate.admitted(room.version, room.room_id, _list(server, answer, "events"))
        new = False
        for each in sorted(between[:MAX_BETWEEN], key=lambda each: each.depth):
            try:
                await self._receiver.receive(room, each)
                new = True
            except Missing as missing:
                if missing.prev_events:
                    continue
                await self._fetch_auth_chain(room, each, server)
                try:
                    await self._receiver.receive(room, each)
                    new = True
                except Missing:
                    continue
        return new

    async def _fetch_auth_chain(self, room: Room, event: Event, server: str) -> None:
        answer = await self._client.get(
            server,
            request_target(f"{V1}/event_auth", room.room_id, event.event_id),
            max_bytes=MAX_STATE_BYTES,
        )
        await self._keep(room, _list(server, answer, "auth_chain"))

    async def _told_state(self, room: Room, event: Event, server: str) -> StateIds:
        """The state before an event as the server tells it; all of it is known when this returns."""
        query = {"event_id": event.event_id}
        answer = await self._client.get(
            server, request_target(f"{V1}/state_ids", room.room_id, query=query), max_bytes=MAX_STATE_BYTES
        )
        state_ids = _event_ids(server, answer, "pdu_ids")
        wanted = {*state_ids, *_event_ids(server, answer, "auth_chain_ids"), *event.auth_events}
        unknown = wanted - (await self._events.get_many(room, wanted)).keys()
        if len(unknown) > FEW:
            whole = await self._client.get(
                server, request_target(f"{V1}/state", room.room_id, query=query), max_bytes=MAX_STATE_BYTES
            )
            await self._keep(room, _list(server, whole, "pdus") + _list(server, whole, "auth_chain"))
        elif unknown:
            await self._keep(room, await self._fetch(server, unknown))
        known = await self._events.get_many(room, state_ids)
        return immutables.Map(
            {
                each.event.state_tuple: event_id
                for event_id, each in known.items()
                if each.event.is_state and not each.is_rejected
            }
        )

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
