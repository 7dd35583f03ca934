"""The tree of a space (spec: client-server "Spaces", server-server "Spaces")."""

import orjson

from homeserver.errors import forbidden, not_found
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.summary import Summaries, summary_of

MAX_CHILDREN = 1000


def space_children(room: Room) -> list[JsonObject]:
    """The `m.space.child` events of a space as stripped state, in the order that the spec gives."""
    if room.state_content("m.room.create").get("type") != "m.space":
        return []
    children: list[tuple[tuple[bool, str, int, str], JsonObject]] = []
    for (type, state_key), event in room.head.state.items():
        content = event.content if type == "m.space.child" else {}
        if not isinstance(content.get("via"), list) or not state_key.startswith("!"):
            continue
        order = content.get("order")
        if not isinstance(order, str) or len(order) > 50 or not all(" " <= c <= "~" for c in order):
            order = None
        shown = orjson.loads(event.without_unsigned())
        stripped = {key: shown[key] for key in ("type", "state_key", "content", "sender", "origin_server_ts")}
        children.append(((order is None, order or "", event.ts, state_key), stripped))
    children.sort(key=lambda child: child[0])
    return [stripped for _, stripped in children[:MAX_CHILDREN]]


class Hierarchy:
    """Walks the tree of a space, depth first, a page at a time."""

    MAX_DEPTH = 50
    MAX_PAGE = 50
    MAX_VISITED = 2000

    def __init__(self, rooms: Rooms, summaries: Summaries) -> None:
        self._rooms = rooms
        self._summaries = summaries

    async def page(
        self,
        room_id: str,
        user_id: str,
        *,
        suggested_only: bool,
        max_depth: int,
        limit: int,
        skip: int,
    ) -> tuple[list[JsonObject], bool]:
        """(rooms after the first `skip`, whether there are more). Raises 403 for a root not to be seen."""
        root = await self._rooms.get(room_id)
        if root is None or not await self._summaries.may_see(root, user_id):
            raise forbidden("You may not see this room")
        found: list[JsonObject] = []
        seen: set[str] = set()
        stack: list[tuple[str, int]] = [(room_id, 0)]
        position = 0
        while stack and len(seen) < self.MAX_VISITED:
            current, depth = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            room = await self._rooms.get(current)
            if room is None or not await self._summaries.may_see(room, user_id):
                continue
            children = _children(room, suggested_only=suggested_only)
            if position >= skip:
                if len(found) == limit:
                    return found, True
                found.append({**summary_of(room), "children_state": children})
            position += 1
            if depth < min(max_depth, self.MAX_DEPTH):
                stack.extend((child["state_key"], depth + 1) for child in reversed(children))
        return found, False

    async def level(self, room_id: str, server: str, *, suggested_only: bool) -> JsonObject:
        """A room and the children known here, as far as users of another server may see them.

        Raises 404 for a room not to be seen.
        """
        root = await self._rooms.get(room_id)
        if root is None or not await self._summaries.server_may_see(root, server):
            raise not_found("There is no such room")
        children = _children(root, suggested_only=suggested_only)
        shown: list[JsonObject] = []
        hidden: list[str] = []
        for child in children:
            room = await self._rooms.get(child["state_key"])
            if room is None:
                continue  # Other servers may know more of it.
            if await self._summaries.server_may_see(room, server):
                shown.append(summary_of(room))
            else:
                hidden.append(room.room_id)
        return {
            "room": {**summary_of(root), "children_state": children},
            "children": shown,
            "inaccessible_children": hidden,
        }


def _children(room: Room, *, suggested_only: bool) -> list[JsonObject]:
    children = space_children(room)
    if not suggested_only:
        return children
    return [child for child in children if child["content"].get("suggested") is True]
