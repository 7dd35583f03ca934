"""/sync and filters (spec: client-server "Syncing", "Filtering")."""

from client_api.http import Auth, Call, get, post
from homeserver.presence.presence import Presence
from homeserver.sync.engine import SyncEngine, SyncRequest
from homeserver.sync.federation_format import FederationFormat
from homeserver.sync.stored_filters import StoredFilters
from rest.answers import Result
from rest.routes import Routes


class SyncRoutes(Routes):
    def __init__(
        self,
        engine: SyncEngine,
        federation_format: FederationFormat,
        filters: StoredFilters,
        presence: Presence,
    ) -> None:
        self._engine = engine
        self._federation_format = federation_format
        self._filters = filters
        self._presence = presence

    @get("/sync", auth=Auth.GUEST)
    async def sync(self, call: Call) -> Result:
        session = call.session
        user_id, device_id = session.user_id, session.device_id
        set_presence = call.query("set_presence") or "online"
        request = SyncRequest(
            since=call.query("since"),
            timeout=call.int_query("timeout", 0),
            full_state=call.bool_query("full_state"),
            use_state_after=call.bool_query("use_state_after")
            or call.bool_query("org.matrix.msc4222.use_state_after"),
            filter=await self._filters.named(user_id, call.query("filter")),
        )
        del call, session  # a waiting poll holds no more than it needs
        here = self._presence.sync_begins(user_id, device_id, set_presence)
        try:
            answer = await self._engine.sync(user_id, device_id, request)
        finally:
            self._presence.sync_ends(here)
        if request.filter.event_format == "federation":
            return await self._federation_format.of(answer)
        return answer

    @post("/user/{user_id}/filter")
    async def upload_filter(self, call: Call) -> Result:
        call.check_own()
        filter_id = await self._filters.keep(call.user_id, call.content())
        return {"filter_id": filter_id}

    @get("/user/{user_id}/filter/{filter_id}")
    async def get_filter(self, call: Call) -> Result:
        call.check_own()
        return await self._filters.body(call.user_id, call.path("filter_id"))
