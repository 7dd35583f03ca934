"""No room's odd state breaks those who are invited to it, knock at it or look at it (HARDENING 10).

What a room says of itself is shown before one is in it, and stands in the same answer as all other rooms.
"""

import random
from typing import Any
from urllib.parse import quote

import pytest

from tests.client_api.conftest import Client, Server
from tests.client_api.hostile_values import VALUES

SEEDS = range(4)
V1 = "/_matrix/client/v1"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
STATE = {
    "m.room.name": "name",
    "m.room.topic": "topic",
    "m.room.avatar": "url",
    "m.room.canonical_alias": "alias",
    "m.room.encryption": "algorithm",
    "m.room.guest_access": "guest_access",
    "m.room.history_visibility": "history_visibility",
    "m.room.join_rules": "allow",
    "m.room.tombstone": "replacement_room",
    "m.room.pinned_events": "pinned",
    "m.room.server_acl": "allow",
    "m.space.child": "via",
    "m.space.parent": "canonical",
}
LISTS = {
    "all": {
        "ranges": [[0, 99]],
        "timeline_limit": 10,
        "required_state": [["*", "*"]],
        "include_heroes": True,
        "filters": {"not_room_types": ["m.space"]},
    },
    "named": {"ranges": [[0, 99]], "timeline_limit": 1, "required_state": [], "filters": {"is_dm": True}},
}


async def odd_room(alice: Client, invited: list[str], rng: random.Random, rule: str) -> str:
    """A room of which all that clients may write is of the wrong type."""
    room_id = await alice.create_room(
        preset="public_chat", creation_content={"type": rng.choice([5, [], None, {"a": 1}])}
    )
    for type, field in STATE.items():
        content: dict[str, Any] = {field: rng.choice(VALUES)}
        if type == "m.room.join_rules":
            content["join_rule"] = rule
        path = f"/rooms/{quote(room_id)}/state/{type}/{quote('!a:localhost') if 'space' in type else ''}"
        await alice.call("PUT", path, content, expect=None)
    for user_id in invited:
        content = {"membership": "invite", "displayname": rng.choice(VALUES), "is_direct": rng.choice(VALUES)}
        path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user_id)}"
        if (await alice.call("PUT", path, content, expect=None)).status != 200:
            await alice.invite(room_id, user_id)
    return room_id


async def looks_around(bob: Client, room_id: str) -> None:
    """Every answer that has something of the room in it."""
    await bob.sync()
    await bob.sync(full=True)
    await bob.sync(full=True, filter={"room": {"include_leave": True, "state": {"lazy_load_members": True}}})
    await bob.post(SLIDING, {"lists": LISTS, "room_subscriptions": {room_id: LISTS["all"] | {"ranges": []}}})
    await bob.get("/initialSync?limit=5")
    await bob.get("/notifications")
    await bob.get("/publicRooms")
    await bob.post("/publicRooms", {"filter": {"generic_search_term": "a"}})
    await bob.post("/search", {"search_categories": {"room_events": {"search_term": "a"}}})
    for path in (
        f"{V1}/room_summary/{quote(room_id)}",
        f"{V1}/rooms/{quote(room_id)}/hierarchy",
        f"/rooms/{quote(room_id)}/messages?dir=b",
        f"/rooms/{quote(room_id)}/members",
        f"/rooms/{quote(room_id)}/joined_members",
    ):
        assert (await bob.call("GET", path, expect=None)).status in (200, 403, 404), path


@pytest.mark.parametrize("seed", SEEDS)
async def test_hardening_10_odd_invites_and_knocks_leave_everything_else_working(
    server: Server, alice: Client, bob: Client, carol: Client, seed: int
) -> None:
    rng = random.Random(seed)
    good = await alice.create_room(name="good", invite=[bob.user_id])
    invited = await odd_room(alice, [bob.user_id], rng, "public")
    knocked = await odd_room(alice, [], rng, "knock")
    published = await alice.create_room(visibility="public", name="here")
    for client, room_id in ((bob, invited), (carol, knocked)):
        await looks_around(client, room_id)
    await carol.call("POST", f"/knock/{quote(knocked)}", {"reason": "hello"}, expect=None)
    await looks_around(carol, knocked)
    assert good in (await bob.sync(full=True))["rooms"]["invite"]
    assert invited in (await bob.sync(full=True))["rooms"]["invite"]
    await bob.join(good)
    await bob.join(invited)
    await alice.send(good, "hello")
    await alice.send(invited, "hello")
    await looks_around(bob, invited)
    shown = await bob.sync(full=True)
    assert {good, invited} <= set(shown["rooms"]["join"])
    assert published in [room["room_id"] for room in (await bob.get("/publicRooms"))["chunk"]]
    await server.restart()
    await looks_around(bob, invited)
    await looks_around(carol, knocked)
