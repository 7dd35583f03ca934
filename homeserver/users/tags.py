"""Tags of rooms (spec: client-server "Room Tagging"), which are account data of the room, type `m.tag`."""

from homeserver.errors import bad_json, invalid_param
from homeserver.protocol.json_types import JsonObject
from homeserver.users.account_data import AccountData

TAGS = "m.tag"
MAX_TAG_BYTES = 255
MAX_TAGS = 100


class Tags:
    """The tags that users give rooms. Clients may also write them as any other account data."""

    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    async def of(self, user_id: str, room_id: str) -> JsonObject:
        """Tag → what the user's clients say of it, such as its `order`."""
        return _tags(await self._account_data.get(user_id, TAGS, room_id) or {})

    async def set(self, user_id: str, room_id: str, tag: str, info: JsonObject) -> None:
        """Give a room a tag, or say something else of one. Raises 400, also for too many."""
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

        await self._account_data.change(user_id, TAGS, change, room_id)

    async def delete(self, user_id: str, room_id: str, tag: str) -> None:
        """Take a tag from a room, if it has that."""

        def change(content: JsonObject) -> JsonObject:
            tags = {name: info for name, info in _tags(content).items() if name != tag}
            return {**content, "tags": tags}

        await self._account_data.change(user_id, TAGS, change, room_id)


def _tags(content: JsonObject) -> JsonObject:
    tags = content.get("tags")
    return tags if isinstance(tags, dict) else {}
