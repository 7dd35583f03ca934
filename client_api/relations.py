"""Relations and threads (spec: client-server "Relationships API", "Threading")."""

from client_api.http import Call, get
from homeserver.rooms.relations import Relations
from rest.answers import Result
from rest.routes import Routes

BASE = "/_matrix/client/v1/rooms/{room_id}"
MAX_PAGE = 200


class RelationRoutes(Routes):
    def __init__(self, relations: Relations) -> None:
        self._relations = relations

    @get(BASE + "/relations/{event_id}")
    async def children(self, call: Call) -> Result:
        return await self._children(call, None, None)

    @get(BASE + "/relations/{event_id}/{rel_type}")
    async def children_by_relation(self, call: Call) -> Result:
        return await self._children(call, call.path("rel_type"), None)

    @get(BASE + "/relations/{event_id}/{rel_type}/{event_type}")
    async def children_by_relation_and_type(self, call: Call) -> Result:
        return await self._children(call, call.path("rel_type"), call.path("event_type"))

    async def _children(self, call: Call, rel_type: str | None, type: str | None) -> Result:
        return await self._relations.children(
            call.path("room_id"),
            call.session,
            call.path("event_id"),
            rel_type=rel_type,
            type=type,
            backwards=call.choice_query("dir", "b", "f") == "b",
            start=call.query("from"),
            end=call.query("to"),
            limit=call.int_query("limit", 50, least=1, most=MAX_PAGE),
            recurse=call.bool_query("recurse"),
        )

    @get(BASE + "/threads", limit="request")
    async def threads(self, call: Call) -> Result:
        return await self._relations.threads(
            call.path("room_id"),
            call.session,
            participated=call.choice_query("include", "all", "participated") == "participated",
            start=call.query("from"),
            limit=call.int_query("limit", 20, least=1, most=MAX_PAGE),
        )
