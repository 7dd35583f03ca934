"""The directory of published rooms as both APIs ask for it.

spec: client-server GET and POST /publicRooms, server-server the same
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.directory import MAX_LIMIT
from rest.call import Call


class Page(Protocol):
    """Reads a page of a directory, as `Directory.page` does."""

    async def __call__(
        self,
        *,
        search: str | None,
        room_types: Sequence[str | None] | None,
        limit: int | None,
        since: str | None,
    ) -> JsonObject: ...


class Filter(msgspec.Struct):
    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


class Search(msgspec.Struct):
    filter: Filter = msgspec.field(default_factory=Filter)
    limit: int | None = None
    since: str | None = None
    include_all_networks: bool = False
    third_party_instance_id: str | None = None


async def listed(page: Page, call: Call) -> JsonObject:
    """A page of all rooms, by the parameters of the query. Raises 400."""
    limit = call.int_query("limit", 100, least=0, most=MAX_LIMIT)
    return await page(search=None, room_types=None, limit=limit or None, since=call.query("since"))


async def found(page: Page, call: Call) -> JsonObject:
    """A page of the rooms that the body looks for. Raises 400."""
    wanted = call.json(Search)
    return await page(
        search=wanted.filter.generic_search_term,
        room_types=wanted.filter.room_types,
        limit=wanted.limit,
        since=wanted.since,
    )
