"""/sync and filters (spec: client-server "Syncing", "Filtering")."""

from hashlib import blake2b

import msgspec
import orjson

from client_api.http import Auth, Call, get, post
from homeserver.errors import MatrixError, bad_json, forbidden, invalid_param, not_found
from homeserver.presence.presence import Presence
from homeserver.sync.engine import SyncEngine, SyncRequest
from homeserver.sync.federation_format import FederationFormat
from homeserver.sync.filter import EVERYTHING, Filter
from rest.answers import Result
from rest.routes import Routes
from storage.collection import Collection
from storage.records.profiles import StoredFilter

MAX_FILTER_BYTES = 64 * 1024
MAX_FILTERS = 1000

_decoder = msgspec.json.Decoder(Filter)


def parse_filter(raw: bytes | str) -> Filter:
    """Raises 400 M_BAD_JSON."""
    try:
        return _decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise bad_json(f"filter: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise MatrixError(400, "M_NOT_JSON", "filter: not JSON") from error


class SyncRoutes(Routes):
    def __init__(
        self,
        engine: SyncEngine,
        federation_format: FederationFormat,
        filters: Collection[StoredFilter],
        presence: Presence,
    ) -> None:
        self._engine = engine
        self._federation_format = federation_format
        self._filters = filters
        self._presence = presence
        self._parsed: dict[tuple[str, str], Filter] = {}

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
            filter=await self._filter(user_id, call.query("filter")),
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

    async def _filter(self, user_id: str, given: str | None) -> Filter:
        if not given:
            return EVERYTHING
        if given.startswith("{"):
            if len(given) > MAX_FILTER_BYTES:
                raise invalid_param("filter: too large")
            return parse_filter(given)
        cached = self._parsed.get((user_id, given))
        if cached is None:
            record = await self._filters.get(user_id, given)
            if record is None:
                raise invalid_param("filter: no such filter")
            cached = parse_filter(record.body)
            if len(self._parsed) > 10_000:
                self._parsed.clear()
            self._parsed[user_id, given] = cached
        return cached

    @post("/user/{user_id}/filter")
    async def upload_filter(self, call: Call) -> Result:
        _own(call)
        content = call.content()
        body = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        if len(body) > MAX_FILTER_BYTES:
            raise invalid_param("The filter is too large")
        parse_filter(body)
        filter_id = blake2b(body, digest_size=8).hexdigest()
        if await self._filters.get(call.user_id, filter_id) is None:
            if await self._filters.count("key", (call.user_id,)) >= MAX_FILTERS:
                raise invalid_param("Too many filters")
            await self._filters.put(StoredFilter(user_id=call.user_id, filter_id=filter_id, body=body))
        return {"filter_id": filter_id}

    @get("/user/{user_id}/filter/{filter_id}")
    async def get_filter(self, call: Call) -> Result:
        _own(call)
        record = await self._filters.get(call.user_id, call.path("filter_id"))
        if record is None:
            raise not_found("There is no such filter")
        return record.body


def _own(call: Call) -> None:
    if call.path("user_id") != call.user_id:
        raise forbidden("Not your own")
