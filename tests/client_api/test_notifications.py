"""What one was notified of (spec: client-server "Listing Notifications")."""

from typing import Any

import pytest

from homeserver.push import notifications as module
from tests.client_api.conftest import Client, Server


async def bodies(client: Client, **query: Any) -> list[str]:
    """The texts of the notifications of one page."""
    listed = (await client.get("/notifications", query=query))["notifications"]
    return [notification["event"]["content"].get("body", "?") for notification in listed]


async def pages(client: Client, limit: int, **query: Any) -> list[list[str]]:
    found: list[list[str]] = []
    while True:
        body = await client.get("/notifications", query={"limit": limit, **query})
        found.append([n["event"]["content"].get("body", "?") for n in body["notifications"]])
        if "next_token" not in body:
            return found
        query["from"] = body["next_token"]


@pytest.fixture
async def rooms(alice: Client, bob: Client) -> list[str]:
    """Two rooms of both."""
    made = [await alice.create_room(preset="public_chat") for _ in range(2)]
    for room_id in made:
        await bob.join(room_id)
    return made


async def test_notifications_of_all_rooms_come_newest_first_and_without_ones_own(
    rooms: list[str], alice: Client, bob: Client
) -> None:
    await alice.send(rooms[0], "a")
    await alice.send(rooms[1], "b")
    await bob.send(rooms[0], "mine")
    await alice.send(rooms[0], {"msgtype": "m.notice", "body": "a bot's"})
    await alice.send(rooms[0], "c")
    assert await bodies(bob) == ["c", "b", "a"]
    newest = (await bob.get("/notifications"))["notifications"][0]
    assert newest["room_id"] == rooms[0]
    assert "notify" in newest["actions"]
    assert newest["ts"] == newest["event"]["origin_server_ts"]
    assert newest["event"]["sender"] == alice.user_id


async def test_pages_join_without_gap_or_overlap(rooms: list[str], alice: Client, bob: Client) -> None:
    sent = []
    for number in range(130):
        # One room is busier than the other, and both have more events than are read at once.
        await alice.send(rooms[number % 5 == 0], f"m{number}")
        sent.append(f"m{number}")
    found = await pages(bob, 7)
    assert [len(page) for page in found[:-1]] == [7] * (len(found) - 1)
    assert [body for page in found for body in page] == sent[::-1]


async def test_only_highlights(rooms: list[str], alice: Client, bob: Client) -> None:
    await alice.send(rooms[0], "plain")
    mention = {"msgtype": "m.text", "body": "for bob", "m.mentions": {"user_ids": [bob.user_id]}}
    await alice.send(rooms[1], mention)
    assert await bodies(bob, only="highlight") == ["for bob"]


async def test_read_follows_the_receipts(rooms: list[str], alice: Client, bob: Client) -> None:
    root = await alice.send(rooms[0], "one")
    relation = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    reply = await alice.send(rooms[0], {"msgtype": "m.text", "body": "in thread", **relation})
    await alice.send(rooms[0], "three")

    async def read() -> dict[str, bool]:
        listed = (await bob.get("/notifications"))["notifications"]
        return {n["event"]["content"]["body"]: n["read"] for n in listed}

    assert await read() == {"three": False, "in thread": False, "one": False}
    await bob.post(f"/rooms/{rooms[0]}/receipt/m.read/{reply}", {"thread_id": root})
    assert await read() == {"three": False, "in thread": True, "one": False}
    await bob.post(f"/rooms/{rooms[0]}/receipt/m.read.private/{reply}")
    assert await read() == {"three": False, "in thread": True, "one": True}


async def test_rooms_left_and_what_was_before_the_join_and_ignored_users_are_not_listed(
    rooms: list[str], alice: Client, bob: Client, carol: Client
) -> None:
    await alice.send(rooms[0], "in the room left")
    await alice.send(rooms[1], "before carol")
    await carol.join(rooms[1])
    await carol.send(rooms[1], "by carol")
    await alice.send(rooms[1], "by alice")
    await bob.leave(rooms[0])
    ignored: dict[str, Any] = {"ignored_users": {carol.user_id: {}}}
    await bob.put(f"/user/{bob.user_id}/account_data/m.ignored_user_list", ignored)
    assert await bodies(bob) == ["by alice", "before carol"]
    assert await bodies(carol) == ["by alice"]


async def test_work_of_one_request_is_bounded_and_its_token_goes_on(
    rooms: list[str], alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HARDENING 22: pages move on through events that are not listed."""
    monkeypatch.setattr(module, "MAX_EXAMINED", 10)
    await alice.send(rooms[0], "far back")
    for _ in range(25):
        await alice.send(rooms[1], {"msgtype": "m.notice", "body": "x"})
    found = await pages(bob, 50)
    assert [page for page in found if page] == [["far back"]]
    assert len(found) > 2


async def test_after_a_restart_the_same_is_listed(
    server: Server, rooms: list[str], alice: Client, bob: Client
) -> None:
    for number in range(5):
        await alice.send(rooms[number % 2], str(number))
    await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Robert"})
    before = await bodies(bob)
    await server.restart()
    again = server.client()
    again.token = bob.token
    assert await bodies(again) == before == ["4", "3", "2", "1", "0"]


@pytest.mark.parametrize("token", ["x", "n1_0_5", "n1", "s1_x_1_1_1", "n1_" + "z" * 9000])
async def test_tokens_of_elsewhere_are_refused(alice: Client, token: str) -> None:
    await alice.call("GET", f"/notifications?from={token}", expect=400)


async def test_limit_must_be_a_number(alice: Client) -> None:
    await alice.call("GET", "/notifications?limit=many", expect=400)
