"""Searching through events (spec: client-server "Server Side Search")."""

import msgspec
import orjson

from client_api.http import Call, post
from homeserver.search.searching import Criteria, Search
from rest.answers import Result
from rest.routes import Routes


class Categories(msgspec.Struct):
    room_events: Criteria | None = None


class SearchBody(msgspec.Struct):
    search_categories: Categories


class SearchRoutes(Routes):
    def __init__(self, search: Search) -> None:
        self._search = search

    @post("/search", limit="search", quick=True)
    async def search(self, call: Call) -> Result:
        categories = call.json(SearchBody).search_categories
        found: dict[str, object] = {}
        if categories.room_events is not None:
            found["room_events"] = await self._search.room_events(
                call.session, categories.room_events, call.query("next_batch")
            )
        return orjson.dumps({"search_categories": found})
