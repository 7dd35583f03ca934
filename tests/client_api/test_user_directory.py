"""Finding users (spec: client-server "User Directory")."""

from typing import Any

import pytest

from homeserver.consumers import user_directory as module
from tests.client_api.conftest import Client, Server


async def search(server: Server, client: Client, term: str, **options: Any) -> dict[str, Any]:
    for consumer in server.app.ground.consumers:
        await consumer.settled(0)
    body: dict[str, Any] = await client.post("/user_directory/search", {"search_term": term, **options})
    return body


async def found(server: Server, client: Client, term: str) -> list[str]:
    return [user["user_id"] for user in (await search(server, client, term))["results"]]


async def named(client: Client, name: str) -> None:
    await client.put(f"/profile/{client.user_id}/displayname", {"displayname": name})


async def test_who_shares_no_room_and_is_in_no_public_one_is_not_found(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    private = await alice.create_room(invite=[bob.user_id])
    assert await found(server, alice, "bob") == []
    await bob.join(private)
    assert await found(server, alice, "bob") == [bob.user_id]
    assert await found(server, carol, "bob") == []
    await bob.leave(private)
    assert await found(server, alice, "bob") == []


async def test_members_of_public_rooms_are_found_by_everyone(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    first, second = [await alice.create_room(preset="public_chat") for _ in range(2)]
    for room_id in (first, second):
        await bob.join(room_id)
    assert await found(server, carol, "bob") == [bob.user_id]
    await bob.leave(first)
    assert await found(server, carol, "bob") == [bob.user_id]
    await bob.leave(second)
    assert await found(server, carol, "bob") == []


async def test_a_room_that_opens_or_closes_takes_its_members_along(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    assert await found(server, carol, "bob") == [bob.user_id]
    await alice.set_state(room_id, "m.room.join_rules", {"join_rule": "invite"})
    assert await found(server, carol, "bob") == []
    assert await found(server, alice, "bob") == [bob.user_id]
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    assert await found(server, carol, "bob") == [bob.user_id]


async def test_names_are_matched_by_beginnings_of_words_in_any_case(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await named(bob, "Robert Łukasz")
    await bob.put(f"/profile/{bob.user_id}/avatar_url", {"avatar_url": "mxc://localhost/face"})
    for term in ("rob", "ŁUK", "bob", "@bob:localhost", "łukasz rob"):
        body = await search(server, alice, term)
        assert body == {
            "results": [
                {
                    "user_id": bob.user_id,
                    "display_name": "Robert Łukasz",
                    "avatar_url": "mxc://localhost/face",
                }
            ],
            "limited": False,
        }
    for term in ("ukasz", "localhost", "rob smith", "", "  ", "☂"):
        assert (await search(server, alice, term))["results"] == []
    await named(bob, "Somebody Else")
    assert await found(server, alice, "robert") == []
    assert await found(server, alice, "else") == [bob.user_id]


async def test_what_is_not_known_is_left_out_and_oneself_is_not_found(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await named(bob, "")
    assert (await search(server, alice, "bob"))["results"] == [{"user_id": bob.user_id}]
    assert await found(server, bob, "bob") == []


async def test_whole_words_come_first_and_the_limit_is_told(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    users = {}
    for localpart, name in (("u1", "Annabel"), ("u2", "Ann Lee"), ("u3", "Anna"), ("ann", "")):
        users[localpart] = await server.register(localpart)
        await users[localpart].join(room_id)
        await named(users[localpart], name)
    assert await found(server, bob, "ann") == [users[u].user_id for u in ("u2", "ann", "u1", "u3")]
    body = await search(server, bob, "ann", limit=2)
    assert (len(body["results"]), body["limited"]) == (2, True)
    assert (await search(server, bob, "ann", limit=4))["limited"] is False


async def test_ignored_and_deactivated_users_are_left_out(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    for client in (bob, carol):
        await client.join(room_id)
        await named(client, "Friend")
    ignored: dict[str, Any] = {"ignored_users": {bob.user_id: {}}}
    await alice.put(f"/user/{alice.user_id}/account_data/m.ignored_user_list", ignored)
    assert await found(server, alice, "friend") == [carol.user_id]
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "carol"},
        "password": "correct horse",
    }
    reply = await carol.call("POST", "/account/deactivate", {"erase": True}, expect=401)
    await carol.post(
        "/account/deactivate", {"erase": True, "auth": {**auth, "session": reply.body["session"]}}
    )
    for consumer in server.app.ground.user_consumers:
        await consumer.settled(server.app.users._shards.of_user(carol.user_id))
    assert await found(server, alice, "friend") == []


async def test_a_room_nickname_of_a_local_user_is_not_given_away(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    nick = {"membership": "join", "displayname": "Secret Santa"}
    await bob.set_state(room_id, "m.room.member", nick, bob.user_id)
    assert await found(server, alice, "santa") == []


async def test_work_is_bounded_and_more_is_told(
    server: Server, alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SCANNED", 2)
    room_id = await alice.create_room(preset="public_chat")
    for number in range(4):
        await (await server.register(f"user{number}")).join(room_id)
    body = await search(server, bob, "user")
    assert body["limited"] is True
    assert body["results"]


async def test_the_directory_survives_a_restart(server: Server, alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await server.restart()
    again = server.client()
    again.token = alice.token
    assert await found(server, again, "bob") == [bob.user_id]


@pytest.mark.parametrize("body", [{}, {"search_term": 7}, {"search_term": "x", "limit": "many"}])
async def test_what_is_no_search_is_refused(alice: Client, body: dict[str, Any]) -> None:
    await alice.call("POST", "/user_directory/search", body, expect=400)


async def test_a_negative_limit_shows_nobody(server: Server, alice: Client, bob: Client) -> None:
    await bob.create_room(preset="public_chat")
    assert (await search(server, alice, "bob", limit=-1)) == {"results": [], "limited": True}
