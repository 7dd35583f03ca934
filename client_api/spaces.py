"""Summaries of rooms and the tree of a space (spec: client-server "Room summary", "Spaces")."""

from client_api.http import Auth, Call, get
from homeserver.errors import invalid_param
from homeserver.rooms.spaces import Hierarchy
from homeserver.rooms.summary import Summaries
from rest.answers import Result
from rest.routes import Routes


class SpaceRoutes(Routes):
    def __init__(self, summaries: Summaries, hierarchy: Hierarchy) -> None:
        self._summaries = summaries
        self._hierarchy = hierarchy

    @get(
        "/_matrix/client/v1/room_summary/{room_id_or_alias}",
        "/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}",
        "/_matrix/client/unstable/im.nheko.summary/rooms/{room_id_or_alias}/summary",
        auth=Auth.OPTIONAL,
        limit="search",
    )
    async def summary(self, call: Call) -> Result:
        session = call.optional_session
        return await self._summaries.summary(
            call.path("room_id_or_alias"),
            session.user_id if session is not None else None,
            call.query_all("via"),
        )

    @get("/_matrix/client/v1/rooms/{room_id}/hierarchy", limit="search")
    async def hierarchy(self, call: Call) -> Result:
        suggested_only = call.bool_query("suggested_only")
        max_depth = call.int_query("max_depth", Hierarchy.MAX_DEPTH, most=Hierarchy.MAX_DEPTH)
        skip = _decode(call.query("from"), suggested_only, max_depth)
        limit = call.int_query("limit", Hierarchy.MAX_PAGE, least=1, most=Hierarchy.MAX_PAGE)
        rooms, more = await self._hierarchy.page(
            call.path("room_id"),
            call.user_id,
            suggested_only=suggested_only,
            max_depth=max_depth,
            limit=limit,
            skip=skip,
        )
        if not more:
            return {"rooms": rooms}
        return {"rooms": rooms, "next_batch": f"h{skip + limit}.{max_depth}.{int(suggested_only)}"}


def _decode(token: str | None, suggested_only: bool, max_depth: int) -> int:
    """How many rooms earlier pages held. Raises 400 for a token of another walk."""
    if token is None:
        return 0
    parts = token.removeprefix("h").split(".")
    numeric = all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts)
    if len(parts) != 3 or not numeric or parts[1:] != [str(max_depth), str(int(suggested_only))]:
        raise invalid_param("from: not a token of this walk (suggested_only and max_depth stay the same)")
    return int(parts[0])
