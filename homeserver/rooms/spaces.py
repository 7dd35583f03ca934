"""The tree of a space (spec: client-server "Spaces", server-server "Spaces")."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple

import orjson

from homeserver.errors import forbidden, not_found
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.foreign_rooms import Description, ForeignRoom, ForeignRooms
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import takes_part
from homeserver.rooms.summary import Summaries, summary_of

MAX_CHILDREN = 1000


def space_children(room: Room) -> list[JsonObject]:
    """The `m.space.child` events of a space as stripped state, in the order that the spec gives."""
    if room.room_type != "m.space":
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


class _Branch(NamedTuple):
    """A room of the tree that is still to be looked at."""

    room_id: str
    depth: int
    via: Sequence[str] = ()
    told: Description | None = None
    """What the server said of it that told of its parent."""


class _Shown(NamedTuple):
    """A room of the tree as the user sees it."""

    summary: JsonObject
    children: Sequence[JsonObject]
    told: dict[str, Description]
    """What was said of the children along with it."""
    hidden: frozenset[str] = frozenset()


class Hierarchy:
    """Walks the tree of a space, depth first, a page at a time.

    Rooms that this server is not in are described by others, which are asked for a while; those of which
    nobody tells by then are left out.
    """

    MAX_DEPTH = 50
    MAX_PAGE = 50
    MAX_VISITED = 2000
    MAX_ASKED = 30
    ASKING_SECONDS = 20.0
    """For all of one page."""

    def __init__(self, rooms: Rooms, summaries: Summaries, foreign: ForeignRooms, server_name: str) -> None:
        self._rooms = rooms
        self._summaries = summaries
        self._server_name = server_name
        self._foreign = foreign

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
        found: list[JsonObject] = []
        seen: set[str] = set()
        stack = [_Branch(room_id, 0)]
        position = 0
        asking = _Asking(self.MAX_ASKED, self.ASKING_SECONDS)
        while stack and len(seen) < self.MAX_VISITED:
            branch = stack.pop()
            if branch.room_id in seen:
                continue
            seen.add(branch.room_id)
            shown = await self._shown(branch, user_id, asking, suggested_only=suggested_only)
            if shown is None:
                if not branch.depth:
                    raise forbidden("You may not see this room")
                continue
            if position >= skip:
                if len(found) == limit:
                    return found, True
                found.append({**shown.summary, "children_state": shown.children})
            position += 1
            if branch.depth < min(max_depth, self.MAX_DEPTH):
                stack.extend(
                    _Branch(child_id, branch.depth + 1, child["content"]["via"], shown.told.get(child_id))
                    for child in reversed(shown.children)
                    if (child_id := child["state_key"]) not in shown.hidden
                )
        return found, False

    async def _shown(
        self, branch: _Branch, user_id: str, asking: "_Asking", *, suggested_only: bool
    ) -> _Shown | None:
        room = await self._rooms.get(branch.room_id)
        if room is not None and takes_part(room, self._server_name):
            if not await self._summaries.may_see(room, user_id):
                return None
            return _Shown(summary_of(room), _children(room, suggested_only=suggested_only), {})
        told = branch.told
        if told is None or told.is_space:
            foreign = await asking.within(
                self._foreign.room(branch.room_id, branch.via, suggested_only=suggested_only)
            )
            if foreign is not None:
                if not await self._summaries.may_see_foreign(foreign.description, user_id):
                    return None
                children = [child.shown() for child in foreign.children]
                if suggested_only:
                    children = _suggested(children)
                return _Shown(foreign.description.shown(), children, foreign.known, foreign.hidden)
        if told is None or not await self._summaries.may_see_foreign(told, user_id):
            return None
        return _Shown(told.shown(), [], {})

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


class _Asking:
    """How much others are asked for one page."""

    def __init__(self, most: int, seconds: float) -> None:
        self._left = most
        self._until = asyncio.get_running_loop().time() + seconds

    async def within(self, asked: Coroutine[Any, Any, ForeignRoom | None]) -> ForeignRoom | None:
        """What comes of asking; None if that was enough."""
        self._left -= 1
        if self._left < 0:
            asked.close()
            return None
        try:
            async with asyncio.timeout_at(self._until):
                return await asked
        except TimeoutError:
            self._left = 0
            return None


def _children(room: Room, *, suggested_only: bool) -> list[JsonObject]:
    children = space_children(room)
    return _suggested(children) if suggested_only else children


def _suggested(children: Sequence[JsonObject]) -> list[JsonObject]:
    return [child for child in children if child["content"].get("suggested") is True]
