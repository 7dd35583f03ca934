"""Whom one ignores is neither read, nor counted, nor summed up (spec: client-server "Ignoring Users")."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from tests.client_api.conftest import Client, Server
from tests.client_api.sliding import Sliding, whole_list

V1 = "/_matrix/client/v1"


async def ignore(client: Client, *user_ids: str) -> None:
    content = {"ignored_users": {user_id: {} for user_id in user_ids}}
    await client.put(f"/user/{quote(client.user_id)}/account_data/m.ignored_user_list", content)


def related(rel_type: str, event_id: str, **more: Any) -> dict[str, Any]:
    relates = {"rel_type": rel_type, "event_id": event_id}
    return {"msgtype": "m.text", "body": "n0ise", "m.relates_to": relates, **more}


async def unread(client: Client, room_id: str) -> tuple[int, int]:
    section = (await client.sync(full=True))["rooms"]["join"][room_id]["unread_notifications"]
    return section["notification_count"], section["highlight_count"]


async def test_messages_of_the_ignored_are_not_read_and_their_state_is(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await carol.join(room_id)
    root = await alice.send(room_id, "root")
    noise = [await carol.send(room_id, "n0ise"), await carol.send(room_id, related("m.reference", root))]
    answered = await alice.send(room_id, related("m.thread", root, body="answer"))
    noise.append(await carol.send(room_id, related("m.thread", root)))
    await alice.set_state(room_id, "m.room.power_levels", {"users": {carol.user_id: 50}})
    state = await carol.set_state(room_id, "m.room.topic", {"topic": "carol's"})
    await ignore(bob, carol.user_id)

    room = f"/rooms/{quote(room_id)}"
    page = await bob.get(f"{room}/messages?dir=b&limit=50")
    ids = [event["event_id"] for event in page["chunk"]]
    assert {state, root, answered} <= set(ids)
    for path in (
        f"{room}/messages?dir=b&limit=50",
        f"{room}/messages?dir=f&limit=50",
        f"{room}/context/{quote(root)}?limit=50",
        f"{room}/initialSync?limit=50",
        f"{V1}{room}/relations/{quote(root)}",
        f"{V1}{room}/threads",
        f"{room}/event/{quote(root)}",
    ):
        shown = str(await bob.get(path))
        assert "n0ise" not in shown, path
        assert not [event_id for event_id in noise if event_id in shown], path
    thread = (await bob.get(f"{room}/event/{quote(root)}"))["unsigned"]["m.relations"]["m.thread"]
    assert (thread["count"], thread["latest_event"]["event_id"]) == (1, answered)
    thread = (await alice.get(f"{room}/event/{quote(root)}"))["unsigned"]["m.relations"]["m.thread"]
    assert (thread["count"], thread["latest_event"]["event_id"]) == (2, noise[2])


async def test_threads_of_the_ignored_are_listed_without_what_they_said(
    alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await carol.join(room_id)
    root = await carol.send(room_id, "n0ise")
    answer = await alice.send(room_id, related("m.thread", root, body="answer"))
    await ignore(bob, carol.user_id)
    (listed,) = (await bob.get(f"{V1}/rooms/{quote(room_id)}/threads"))["chunk"]
    assert (listed["event_id"], listed["content"]) == (root, {})
    assert listed["unsigned"]["m.relations"]["m.thread"]["latest_event"]["event_id"] == answer


async def test_nobody_ignores_themselves(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await ignore(alice, alice.user_id, bob.user_id)
    await alice.sync(full=True)
    own = await alice.send(room_id, "mine")
    await bob.send(room_id, "n0ise")
    page = await alice.get(f"/rooms/{quote(room_id)}/messages?dir=b&limit=5")
    timeline = (await alice.sync())["rooms"]["join"][room_id]["timeline"]["events"]
    for events in (page["chunk"], timeline):
        messages = [event["event_id"] for event in events if event["type"] == "m.room.message"]
        assert messages == [own]


async def test_pages_move_on_through_a_run_of_the_ignored(alice: Client, bob: Client) -> None:
    room_id = await bob.create_room(preset="public_chat")
    await alice.join(room_id)
    for n in range(12):
        await alice.send(room_id, f"{n}")
    await ignore(bob, alice.user_id)
    seen, start = [], None
    for _ in range(10):
        query = {"dir": "b", "limit": 5, **({"from": start} if start else {})}
        page = await bob.get(f"/rooms/{quote(room_id)}/messages", query=query)
        seen += page["chunk"]
        start = page.get("end")
        if start is None:
            break
    assert seen[-1]["type"] == "m.room.create"
    assert {event["sender"] for event in seen if "state_key" not in event} <= {bob.user_id}


async def test_the_ignored_are_not_counted(server: Server, alice: Client, bob: Client, carol: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await carol.join(room_id)
    mention = {"msgtype": "m.text", "body": "hey", "m.mentions": {"user_ids": [bob.user_id]}}
    await alice.send(room_id)
    await carol.send(room_id, mention)
    assert await unread(bob, room_id) == (2, 1)
    await ignore(bob, carol.user_id)
    await carol.send(room_id, mention)
    assert await unread(bob, room_id) == (1, 0)
    await server.restart()
    assert await unread(bob, room_id) == (1, 0)
    await ignore(bob)
    assert await unread(bob, room_id) == (3, 2)


@pytest.mark.parametrize(
    "content", [{}, {"ignored_users": []}, {"ignored_users": None}, {"ignored_users": 5}]
)
async def test_a_list_that_is_none_ignores_nobody(alice: Client, bob: Client, content: Any) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.put(f"/user/{quote(bob.user_id)}/account_data/m.ignored_user_list", content)
    sent = await alice.send(room_id)
    page = await bob.get(f"/rooms/{quote(room_id)}/messages?dir=b&limit=5")
    assert sent in [event["event_id"] for event in page["chunk"]]


async def test_pages_move_on_through_a_long_run_of_what_is_not_shown(
    alice: Client, bob: Client, carol: Client
) -> None:
    """HARDENING 22: every page has a token that leads on, and the beginning of the room is reached."""
    room_id = await alice.create_room(preset="public_chat")
    for client in (bob, carol):
        await client.join(room_id)
    await asyncio.gather(*(carol.send(room_id, f"{number}") for number in range(300)))
    await ignore(bob, carol.user_id)
    token, types = None, []
    for _ in range(40):
        query = {"dir": "b", "limit": 10, **({"from": token} if token else {})}
        page = await bob.get(f"/rooms/{room_id}/messages", query=query)
        types += [event["type"] for event in page["chunk"]]
        if "end" not in page:
            break
        assert page["end"] != token
        token = page["end"]
    assert types[-1] == "m.room.create"
    assert "m.room.message" not in types


async def test_messages_below_those_of_the_ignored_are_a_gap_in_sliding_sync(
    alice: Client, bob: Client, carol: Client
) -> None:
    """Else the client would believe that it has them."""
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await carol.join(room_id)
    await ignore(bob, carol.user_id)
    sliding = Sliding(bob, lists={"all": whole_list(limit=2)})
    await sliding.poll()
    missed = await alice.send(room_id)
    for _ in range(2):
        await carol.send(room_id)
    section = (await sliding.poll())["rooms"][room_id]
    assert section["limited"] is True
    query = {"dir": "b", "from": section["prev_batch"], "limit": 1}
    (event,) = (await bob.get(f"/rooms/{room_id}/messages", query=query))["chunk"]
    assert event["event_id"] == missed
