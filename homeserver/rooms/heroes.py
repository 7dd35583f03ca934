"""After whom a room without a name is called (spec: client-server "RoomSummary": `m.heroes`)."""

from homeserver.rooms.room import Room

HEROES = 5


def is_nameless(room: Room) -> bool:
    """Whether the room has neither a name nor an alias to be called by."""
    named = room.state_content("m.room.name").get("name")
    return not named and not room.state_content("m.room.canonical_alias").get("alias")


def heroes(room: Room, user_id: str) -> list[str]:
    """The first five other members by the order of their membership; former ones if there are none."""
    present = [who for who in (*room.joined, *room.invited) if who != user_id]
    if not present:
        present = [
            event.state_key or ""
            for event in room.head.state.values()
            if event.type == "m.room.member" and event.state_key != user_id
        ]
    if len(present) > HEROES:
        positions = {who: room.head.state["m.room.member", who].position for who in present}
        present.sort(key=lambda who: positions[who])
    return sorted(present[:HEROES])
