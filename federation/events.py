"""Events of rooms, and how they hang together.

spec: server-server "Backfilling and retrieving missing events", "Retrieving events",
"Retrieving event authorisation information"
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
import orjson

from federation.http import Call, get, post
from homeserver.clock import Clock
from homeserver.errors import missing_param
from homeserver.graph.told import MAX_BACKFILLED, ToldGraph
from rest.answers import Result
from rest.routes import Routes

V1 = "/_matrix/federation/v1"
DEFAULT_MISSING = 10


class Missing(msgspec.Struct):
    latest_events: list[str]
    earliest_events: list[str]
    limit: Annotated[int, msgspec.Meta(ge=0)] = DEFAULT_MISSING
    min_depth: int = 0


class EventRoutes(Routes):
    def __init__(self, graph: ToldGraph, server_name: str, now: Clock) -> None:
        self._graph = graph
        self._server_name = server_name
        self._now = now

    @get(f"{V1}/event/{{event_id}}")
    async def event(self, call: Call) -> Result:
        return self._transaction([await self._graph.event(call.path("event_id"), call.origin)])

    @get(f"{V1}/state/{{room_id}}")
    async def state(self, call: Call) -> Result:
        state, chain = await self._graph.state(
            call.path("room_id"), call.required_query("event_id"), call.origin
        )
        return b'{"auth_chain":%b,"pdus":%b}' % (_array(chain), _array(state))

    @get(f"{V1}/state_ids/{{room_id}}")
    async def state_ids(self, call: Call) -> Result:
        state, chain = await self._graph.state_ids(
            call.path("room_id"), call.required_query("event_id"), call.origin
        )
        return {"auth_chain_ids": chain, "pdu_ids": state}

    @get(f"{V1}/event_auth/{{room_id}}/{{event_id}}")
    async def event_auth(self, call: Call) -> Result:
        chain = await self._graph.auth_chain(call.path("room_id"), call.path("event_id"), call.origin)
        return b'{"auth_chain":%b}' % _array(chain)

    @get(f"{V1}/backfill/{{room_id}}")
    async def backfill(self, call: Call) -> Result:
        event_ids = call.query_all("v")
        if not event_ids:
            raise missing_param("Missing query parameter: v")
        limit = call.int_query("limit", most=MAX_BACKFILLED)
        return self._transaction(
            await self._graph.backfill(call.path("room_id"), event_ids, call.origin, limit=limit)
        )

    @post(f"{V1}/get_missing_events/{{room_id}}")
    async def missing(self, call: Call) -> Result:
        wanted = call.json(Missing)
        events = await self._graph.missing(
            call.path("room_id"),
            call.origin,
            latest=wanted.latest_events,
            earliest=wanted.earliest_events,
            min_depth=wanted.min_depth,
            limit=wanted.limit,
        )
        return b'{"events":%b}' % _array(events)

    @get(f"{V1}/timestamp_to_event/{{room_id}}")
    async def timestamp_to_event(self, call: Call) -> Result:
        return await self._graph.near_time(
            call.path("room_id"),
            call.origin,
            ts=call.int_query("ts"),
            forwards=call.choice_query("dir", "b", "f") == "f",
        )

    def _transaction(self, events: Sequence[bytes]) -> bytes:
        return b'{"origin":%b,"origin_server_ts":%d,"pdus":%b}' % (
            orjson.dumps(self._server_name),
            self._now(),
            _array(events),
        )


def _array(events: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(events) + b"]"
