"""Other servers, by the admin API of Synapse, which tools for administrators know already."""

from client_api.http import Auth, Call, get, post
from homeserver.destinations import Destinations, DestinationState
from homeserver.protocol.json_types import JsonObject
from rest.answers import Result
from rest.routes import Routes

DESTINATIONS = "/_synapse/admin/v1/federation/destinations"
PAGE = 100
LARGEST_PAGE = 1000


class DestinationRoutes(Routes):
    """`from` and `next_token` are names: the last ones of the page before."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations

    @get(DESTINATIONS, auth=Auth.ADMIN)
    async def destinations(self, call: Call) -> Result:
        limit = call.int_query("limit", PAGE, least=1, most=LARGEST_PAGE)
        found = await self._destinations.all(after=call.query("from") or "", limit=limit)
        total = await self._destinations.count()
        answer: JsonObject = {"destinations": [shown(each) for each in found], "total": total}
        if len(found) == limit:
            answer["next_token"] = found[-1].server_name
        return answer

    @get(f"{DESTINATIONS}/{{server}}", auth=Auth.ADMIN)
    async def destination(self, call: Call) -> Result:
        return shown(await self._destinations.get(call.path("server")))

    @get(f"{DESTINATIONS}/{{server}}/rooms", auth=Auth.ADMIN)
    async def rooms(self, call: Call) -> Result:
        limit = call.int_query("limit", PAGE, least=1, most=LARGEST_PAGE)
        server = call.path("server")
        await self._destinations.get(server)
        found = await self._destinations.rooms(server, after=call.query("from") or "", limit=limit)
        total = await self._destinations.count_rooms(server)
        answer: JsonObject = {"rooms": [{"room_id": room_id} for room_id in found], "total": total}
        if len(found) == limit:
            answer["next_token"] = found[-1]
        return answer

    @post(f"{DESTINATIONS}/{{server}}/reset_connection", auth=Auth.ADMIN)
    async def reset_connection(self, call: Call) -> Result:
        await self._destinations.get(call.path("server"))
        self._destinations.retry(call.path("server"))
        return {}


def shown(state: DestinationState) -> JsonObject:
    """A server as tools for Synapse expect it, with what waits for it."""
    return {
        "destination": state.server_name,
        "failure_ts": state.failing_since or None,
        "retry_last_ts": state.retry_at - state.pause_ms if state.retry_at else 0,
        "retry_interval": state.pause_ms,
        "last_successful_stream_ordering": None,
        "last_success_ts": state.last_success or None,
        "waiting": state.waiting,
        "lag": state.lag,
    }
