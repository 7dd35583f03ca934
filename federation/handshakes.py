"""Joining, knocking and leaving by way of a server that is in the room.

spec: server-server "Joining Rooms", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)"
"""

from collections.abc import Sequence

import orjson

from federation.http import Call, get, put
from federation.resident import Resident
from homeserver.graph.told import ToldGraph
from homeserver.protocol.signing import encode_event
from rest.answers import Result
from rest.routes import Routes

V1 = "/_matrix/federation/v1"
V2 = "/_matrix/federation/v2"
OLDEST_VERSIONS = ["1"]
"""What a server knows that does not say."""


class HandshakeRoutes(Routes):
    def __init__(self, resident: Resident, graph: ToldGraph) -> None:
        self._resident = resident
        self._graph = graph

    @get(f"{V1}/make_join/{{room_id}}/{{user_id}}")
    async def make_join(self, call: Call) -> Result:
        return await self._template(call, "join")

    @get(f"{V1}/make_knock/{{room_id}}/{{user_id}}")
    async def make_knock(self, call: Call) -> Result:
        return await self._template(call, "knock")

    @get(f"{V1}/make_leave/{{room_id}}/{{user_id}}")
    async def make_leave(self, call: Call) -> Result:
        return await self._resident.template(
            call.origin, call.path("room_id"), call.path("user_id"), "leave", None
        )

    async def _template(self, call: Call, membership: str) -> Result:
        versions = call.query_all("ver") or OLDEST_VERSIONS
        return await self._resident.template(
            call.origin, call.path("room_id"), call.path("user_id"), membership, versions
        )

    @put(f"{V2}/send_join/{{room_id}}/{{event_id}}")
    async def send_join(self, call: Call) -> Result:
        omit_members = call.bool_query("omit_members")
        room = await self._resident.room(call.path("room_id"), call.origin)
        servers = set(room.servers)
        event = await self._resident.take(call.origin, room, call.path("event_id"), "join", call.content())
        state, chain = await self._graph.joined(room, event.event_id, omit_members=omit_members)
        return (
            b'{"event":%b' % encode_event(event.version, event.pdu)
            + b',"members_omitted":' + (b"true" if omit_members else b"false")
            + b',"servers_in_room":' + orjson.dumps(sorted(servers))
            + b',"state":' + _array(state)
            + b',"auth_chain":' + _array(chain)
            + b"}"
        )  # fmt: skip

    @put(f"{V1}/send_knock/{{room_id}}/{{event_id}}")
    async def send_knock(self, call: Call) -> Result:
        room = await self._resident.room(call.path("room_id"), call.origin)
        await self._resident.take(call.origin, room, call.path("event_id"), "knock", call.content())
        return b'{"knock_room_state":%b}' % _array(await self._graph.face(room))

    @put(f"{V2}/send_leave/{{room_id}}/{{event_id}}")
    async def send_leave(self, call: Call) -> Result:
        room = await self._resident.room(call.path("room_id"), call.origin)
        await self._resident.take(call.origin, room, call.path("event_id"), "leave", call.content())
        return {}


def _array(events: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(events) + b"]"
