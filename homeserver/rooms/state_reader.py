"""Reading the state and the members of a room (spec: client-server "Getting events for a room")."""

import orjson

from homeserver.clock import Clock
from homeserver.errors import forbidden, not_found
from homeserver.rooms.access import Access, RoomAccess
from homeserver.rooms.history import History
from homeserver.rooms.rendering import events_array
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms

_JOINED = "joined members"
"""Of a room's fragments."""


class StateReader:
    """Reads it for local users."""

    def __init__(self, rooms: Rooms, access: RoomAccess, history: History, now: Clock) -> None:
        self._rooms = rooms
        self._access = access
        self._history = history
        self._now = now

    async def state(self, room_id: str, user_id: str) -> bytes:
        """All state events, as a JSON array."""
        access = await self._access.of_whole(room_id, user_id)
        return events_array(await self._access.state(access), self._now(), access.room)

    async def state_event(
        self, room_id: str, user_id: str, type: str, state_key: str, *, whole: bool
    ) -> bytes:
        """The content (or the whole event) under a state key. Raises 404 when there is none."""
        of_member = type == "m.room.member"
        access = await (self._access.of_whole if of_member else self._access.of)(room_id, user_id)
        event: RoomEvent | None
        if access.upto is None:
            event = access.room.head.state.get((type, state_key))
        else:
            events = await self._access.state(access)
            event = next((e for e in events if e.type == type and e.state_key == state_key), None)
        if event is None:
            raise not_found("The room has no such state event")
        if whole:
            return event.render(self._now(), room_id=access.room.room_id_json)
        return orjson.dumps(event.content)

    async def members(
        self,
        room_id: str,
        user_id: str,
        *,
        at: str | None,
        membership: str | None,
        not_membership: str | None,
    ) -> bytes:
        """Member events, now or at a pagination token: those of one membership or not of another, or all."""
        access = await self._access.of_whole(room_id, user_id)
        room = access.room
        upto = access.upto
        if at:
            position = self._history.position(room, at)
            upto = position if upto is None else min(position, upto)
        events = await self._access.state(Access(room, upto))
        chosen = [
            event
            for event in events
            if event.type == "m.room.member" and _is_wanted(event.membership, membership, not_membership)
        ]
        return b'{"chunk":' + events_array(chosen, self._now(), room) + b"}"

    async def joined_members(self, room_id: str, user_id: str) -> bytes:
        """Joined users with their names and avatars in this room, as JSON; for members only."""
        room = await self._rooms.get(room_id)
        if room is None or user_id not in room.joined:
            raise forbidden("You are not in this room")
        room = await self._rooms.whole(room)
        known = room.fragments.get(_JOINED, bytes)
        if known is None:
            known = orjson.dumps({"joined": _shown_members(room)})
            room.fragments.keep(_JOINED, known, len(known))
        return known


def _shown_members(room: Room) -> dict[str, dict[str, str]]:
    shown: dict[str, dict[str, str]] = {}
    for member in room.joined:
        content = room.head.state["m.room.member", member].content
        fields = {"display_name": content.get("displayname"), "avatar_url": content.get("avatar_url")}
        shown[member] = {key: value for key, value in fields.items() if isinstance(value, str)}
    return shown


def _is_wanted(membership: str | None, this: str | None, not_this: str | None) -> bool:
    """Whether a membership is this one, or is not that one; all are where neither is said."""
    if this is None:
        return not_this is None or membership != not_this
    return membership == this or (not_this is not None and membership != not_this)
