"""What a client puts together from its syncs is the state of the room, whatever it filters (spec: "Syncing").

Rooms change at random, seeded: people come, go, are removed, change their names; a client that is itself away
now and then syncs with gaps of all sizes.
"""

import random
from typing import Any

import pytest

from tests.client_api.conftest import Client

ROUNDS = 25

State = dict[tuple[str, str], str]


def fold(known: State, section: dict[str, Any], *, state_after: bool) -> None:
    """Take one room's section of an answer."""
    told = section["state_after" if state_after else "state"]["events"]
    if not state_after:
        told = told + [event for event in section["timeline"]["events"] if "state_key" in event]
    known.update({(event["type"], event["state_key"]): event["event_id"] for event in told})


async def happens(rng: random.Random, room_id: str, owner: Client, others: list[Client]) -> None:
    """Something, to one of them."""
    who = rng.choice(others)
    is_in = room_id in (await who.get("/joined_rooms"))["joined_rooms"]
    match rng.choice(["message", "topic", "name", "membership", "membership"]):
        case "message" if is_in:
            await who.send(room_id)
        case "name" if is_in:
            content = {"membership": "join", "displayname": str(rng.random())}
            await who.set_state(room_id, "m.room.member", content, state_key=who.user_id)
        case "membership" if not is_in:
            await who.join(room_id)
        case "membership" if rng.random() < 0.5:
            await who.leave(room_id)
        case "membership":
            await owner.post(f"/rooms/{room_id}/kick", {"user_id": who.user_id})
        case _:
            await owner.set_state(room_id, "m.room.topic", {"topic": str(rng.random())})


@pytest.mark.parametrize(
    ("state", "timeline", "state_after"),
    [
        ({}, {}, False),
        ({"lazy_load_members": True}, {}, False),
        ({"lazy_load_members": True}, {}, True),
        ({}, {"types": ["m.room.message"]}, False),
    ],
)
async def test_client_has_the_state_of_the_room(
    alice: Client,
    bob: Client,
    carol: Client,
    state: dict[str, Any],
    timeline: dict[str, Any],
    state_after: bool,
) -> None:
    rng = random.Random(f"{state}{timeline}{state_after}")
    room_id = await alice.create_room(preset="public_chat")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    known: State = {}
    compared = 0
    for _ in range(ROUNDS):
        for _ in range(rng.choice([1, 2, 6])):
            await happens(rng, room_id, alice, [bob, carol])
        wanted = {"room": {"state": state, "timeline": {**timeline, "limit": rng.choice([1, 3, 20])}}}
        body = await bob.sync(filter=wanted, use_state_after=str(state_after).lower())
        rooms = body.get("rooms", {})
        if room_id in rooms.get("leave", {}):
            known.clear()
        if room_id in rooms.get("join", {}):
            fold(known, rooms["join"][room_id], state_after=state_after)
        if room_id not in (await bob.get("/joined_rooms"))["joined_rooms"]:
            continue
        now = {(e["type"], e["state_key"]): e["event_id"] for e in await bob.get(f"/rooms/{room_id}/state")}
        if state:
            now = {key: value for key, value in now.items() if key in known or key[0] != "m.room.member"}
        assert known == now
        compared += 1
    assert compared >= 5
