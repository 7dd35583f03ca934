"""Account data and tags (spec: client-server "Client Config", "Room Tagging")."""

from client_api.http import Call, delete, get, put
from homeserver.errors import MatrixError, bad_json, forbidden, invalid_param, not_found
from homeserver.protocol.identifiers import check_room_id
from homeserver.protocol.json_types import JsonObject
from homeserver.users.account_data import AccountData
from rest.answers import Result
from rest.routes import Routes

MANAGED = ("m.fully_read", "m.push_rules")
"""Types that clients change by other routes only."""
MAX_TAG_BYTES = 255
MAX_TAGS = 100


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
        check_own(call)
        content = await self._account_data.get(call.user_id, call.path("type"), room_id)
        if content is None:
            raise not_found("There is no such account data")
        return content

    async def _set(self, call: Call, room_id: str) -> Result:
        check_own(call)
        type = call.path("type")
        if type in MANAGED:
            raise MatrixError(405, "M_BAD_JSON", f"Cannot set {type} through this API")
        await self._account_data.set(call.user_id, type, call.content(), room_id)
        return {}

    # Tags

    @get("/user/{user_id}/rooms/{room_id}/tags")
    async def tags(self, call: Call) -> Result:
        check_own(call)
        content = await self._account_data.get(call.user_id, "m.tag", check_room_id(call.path("room_id")))
        return {"tags": _tags(content or {})}

    @put("/user/{user_id}/rooms/{room_id}/tags/{tag}", quick=True)
    async def set_tag(self, call: Call) -> Result:
        check_own(call)
        tag, info = call.path("tag"), call.content()
        if len(tag.encode()) > MAX_TAG_BYTES:
            raise invalid_param(f"A tag may have {MAX_TAG_BYTES} bytes at most")
        order = info.get("order", 0)
        if isinstance(order, bool) or not isinstance(order, int | float):
            raise bad_json("order: a number")

        def change(content: JsonObject) -> JsonObject:
            tags = {**_tags(content), tag: info}
            if len(tags) > MAX_TAGS:
                raise invalid_param(f"A room may have {MAX_TAGS} tags at most")
            return {**content, "tags": tags}

        await self._account_data.change(call.user_id, "m.tag", change, check_room_id(call.path("room_id")))
        return {}

    @delete("/user/{user_id}/rooms/{room_id}/tags/{tag}")
    async def delete_tag(self, call: Call) -> Result:
        check_own(call)
        tag = call.path("tag")

        def change(content: JsonObject) -> JsonObject:
            tags = {name: info for name, info in _tags(content).items() if name != tag}
            return {**content, "tags": tags}

        await self._account_data.change(call.user_id, "m.tag", change, check_room_id(call.path("room_id")))
        return {}


def _tags(content: JsonObject) -> JsonObject:
    """The tags in a room's `m.tag`, which clients may also write as any other account data."""
    tags = content.get("tags")
    return tags if isinstance(tags, dict) else {}


def check_own(call: Call) -> None:
    """Raises 403 unless the path's user is who calls."""
    if call.path("user_id") != call.user_id:
        raise forbidden("This is another user's")
