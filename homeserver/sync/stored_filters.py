"""Filters that clients keep at the server, to name them in /sync (spec: client-server "Filtering")."""

from hashlib import blake2b

import msgspec
import orjson

from homeserver.errors import invalid_param, not_found
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.event_filter import read_filter
from homeserver.sync.filter import EVERYTHING, Filter
from storage.collection import Collection
from storage.records.profiles import StoredFilter

MAX_FILTER_BYTES = 64 * 1024
MAX_FILTERS = 1000
"""Of one user."""
MAX_PARSED = 10_000

_decoder = msgspec.json.Decoder(Filter)


class StoredFilters:
    """The filters of all users; what was used is kept parsed."""

    def __init__(self, filters: Collection[StoredFilter]) -> None:
        self._filters = filters
        self._parsed: dict[tuple[str, str], Filter] = {}

    async def named(self, user_id: str, given: str | None) -> Filter:
        """What the `filter` of a request means: a filter as JSON, or the id of one. Raises 400."""
        if not given:
            return EVERYTHING
        if given.startswith("{"):
            if len(given) > MAX_FILTER_BYTES:
                raise invalid_param("filter: too large")
            return read_filter(_decoder, given)
        cached = self._parsed.get((user_id, given))
        if cached is None:
            record = await self._filters.get(user_id, given)
            if record is None:
                raise invalid_param("filter: no such filter")
            cached = read_filter(_decoder, record.body)
            if len(self._parsed) > MAX_PARSED:
                self._parsed.clear()
            self._parsed[user_id, given] = cached
        return cached

    async def keep(self, user_id: str, content: JsonObject) -> str:
        """The id of a filter, under which it is kept. Raises 400, also for too many."""
        body = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        if len(body) > MAX_FILTER_BYTES:
            raise invalid_param("The filter is too large")
        read_filter(_decoder, body)
        filter_id = blake2b(body, digest_size=8).hexdigest()
        if await self._filters.get(user_id, filter_id) is None:
            if await self._filters.count("key", (user_id,)) >= MAX_FILTERS:
                raise invalid_param("Too many filters")
            await self._filters.put(StoredFilter(user_id=user_id, filter_id=filter_id, body=body))
        return filter_id

    async def body(self, user_id: str, filter_id: str) -> bytes:
        """A filter as JSON. Raises 404."""
        record = await self._filters.get(user_id, filter_id)
        if record is None:
            raise not_found("There is no such filter")
        return record.body
