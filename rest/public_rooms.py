"""The directory of published rooms as both APIs ask for it.

spec: client-server GET and POST /publicRooms, server-server the same
"""

from typing import Protocol

import msgspec

from homeserver.errors import invalid_param
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.directory import MAX_LIMIT
from homeserver.rooms.foreign_rooms import Wanted
from rest.call import Call


class Page(Protocol):
    """Reads a page of a directory, as `Directory.page` does."""

    async def __call__(self, wanted: Wanted) -> JsonObject: ...


class Filter(msgspec.Struct):
    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


class Search(msgspec.Struct):
    filter: Filter = msgspec.field(default_factory=Filter)
    limit: int | None = None
    since: str | None = None
    # Read, so that what is ill-typed is refused. There are no rooms of other networks.
    include_all_networks: bool = False
    third_party_instance_id: str | None = None


async def listed(page: Page, call: Call) -> JsonObject:
    """A page of all rooms, by the parameters of the query. Raises 400."""
    limit = call.int_query("limit", 100, least=0, most=MAX_LIMIT)
    wanted = Wanted(
        limit=limit or None,
        since=call.query("since"),
        network=call.query("third_party_instance_id") or None,
        all_networks=call.bool_query("include_all_networks"),
    )
    return await page(_checked(wanted))


async def found(page: Page, call: Call) -> JsonObject:
    """A page of the rooms that the body looks for. Raises 400."""
    body = call.json(Search)
    wanted = Wanted(
        search=body.filter.generic_search_term,
        room_types=body.filter.room_types,
        limit=body.limit,
        since=body.since,
        network=body.third_party_instance_id or None,
        all_networks=body.include_all_networks,
    )
    return await page(_checked(wanted))


def _checked(wanted: Wanted) -> Wanted:
    if wanted.network is not None and wanted.all_networks:
        raise invalid_param("third_party_instance_id names one network, include_all_networks wants all")
    return wanted
