"""Account data and tags (spec: client-server "Client Config", "Room Tagging")."""

from client_api.http import Call, delete, get, put
from homeserver.errors import MatrixError, not_found
from homeserver.protocol.identifiers import check_room_id
from homeserver.users.account_data import AccountData
from homeserver.users.tags import Tags
from rest.answers import Result
from rest.routes import Routes

MANAGED = ("m.fully_read", "m.push_rules")
"""Types that clients change by other routes only."""


class AccountDataRoutes(Routes):
    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    @get("/user/{user_id}/account_data/{type}")
    async def get_global(self, call: Call) -> Result:
        return await self._get(call, "")

    @put("/user/{user_id}/account_data/{type}", quick=True)
    async def set_global(self, call: Call) -> Result:
        return await self._set(call, "")

    @get("/user/{user_id}/rooms/{room_id}/account_data/{type}")
    async def get_for_room(self, call: Call) -> Result:
        return await self._get(call, check_room_id(call.path("room_id")))

    @put("/user/{user_id}/rooms/{room_id}/account_data/{type}", quick=True)
    async def set_for_room(self, call: Call) -> Result:
        return await self._set(call, check_room_id(call.path("room_id")))

    async def _get(self, call: Call, room_id: str) -> Result:
        call.check_own()
        content = await self._account_data.get(call.user_id, call.path("type"), room_id)
        if content is None:
            raise not_found("There is no such account data")
        return content

    async def _set(self, call: Call, room_id: str) -> Result:
        call.check_own()
        type = call.path("type")
        if type in MANAGED:
            raise MatrixError(405, "M_BAD_JSON", f"Cannot set {type} through this API")
        await self._account_data.set(call.user_id, type, call.content(), room_id)
        return {}


class TagRoutes(Routes):
    def __init__(self, tags: Tags) -> None:
        self._tags = tags

    @get("/user/{user_id}/rooms/{room_id}/tags")
    async def tags(self, call: Call) -> Result:
        call.check_own()
        return {"tags": await self._tags.of(call.user_id, check_room_id(call.path("room_id")))}

    @put("/user/{user_id}/rooms/{room_id}/tags/{tag}", quick=True)
    async def set_tag(self, call: Call) -> Result:
        call.check_own()
        room_id = check_room_id(call.path("room_id"))
        await self._tags.set(call.user_id, room_id, call.path("tag"), call.content())
        return {}

    @delete("/user/{user_id}/rooms/{room_id}/tags/{tag}")
    async def delete_tag(self, call: Call) -> Result:
        call.check_own()
        await self._tags.delete(call.user_id, check_room_id(call.path("room_id")), call.path("tag"))
        return {}
