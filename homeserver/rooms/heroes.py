"""After whom a room without a name is called (spec: client-server "RoomSummary": `m.heroes`)."""

from collections.abc import Iterable
from heapq import nsmallest

from homeserver.rooms.room import Room

HEROES = 5
_FIRST = "first members"
"""Of a room's fragments."""


def is_nameless(room: Room) -> bool:
    """Whether the room has neither a name nor an alias to be called by."""
    return not room.name and not room.state_content("m.room.canonical_alias").get("alias")


def heroes(room: Room, user_id: str) -> list[str]:
    """The first five other members by the order of their membership; former ones if there are none."""
    members = room.fragments.get(_FIRST, list)
    if members is None:
        members = room.fragments.keep(_FIRST, _first(room, (*room.joined, *room.invited)))
    others = [who for who in members if who != user_id]
    if not others:
        known = (key for type, key in room.head.state if type == "m.room.member")
        others = [who for who in _first(room, known) if who != user_id]
    return sorted(others[:HEROES])


def _first(room: Room, users: Iterable[str]) -> list[str]:
    """Of these users with a member event the first ones, one of whom may be the one who asks."""
    state = room.head.state
    return nsmallest(HEROES + 1, users, key=lambda who: state["m.room.member", who].position)
