"""The tree of a space, a level at a time (spec: server-server "Spaces")."""

from federation.http import Call, get
from homeserver.rooms.spaces import Hierarchy
from rest.answers import Result
from rest.routes import Routes


class SpaceRoutes(Routes):
    def __init__(self, hierarchy: Hierarchy) -> None:
        self._hierarchy = hierarchy

    @get("/_matrix/federation/v1/hierarchy/{room_id}")
    async def hierarchy(self, call: Call) -> Result:
        return await self._hierarchy.level(
            call.path("room_id"), call.origin, suggested_only=call.bool_query("suggested_only")
        )
