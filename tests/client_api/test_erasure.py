"""What is left of those who had themselves erased (spec: client-server "Account deactivation").

Who was joined when something was sent keeps it; to everybody else it is as if it had been redacted.
"""

from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from tests.client_api.conftest import Client, Server

MARK = "er4sed"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


async def deactivate(server: Server, client: Client, *, erase: bool) -> None:
    identifier = {"type": "m.id.user", "user": client.user_id}
    proof = {"type": "m.login.password", "identifier": identifier, "password": "correct horse"}
    await client.post("/account/deactivate", {"auth": proof, "erase": erase})
    for consumer in server.app.ground.user_consumers:
        for shard in server.app.users.writers:
            await consumer.settled(shard)


def related(rel_type: str, event_id: str, **content: Any) -> dict[str, Any]:
    return {
        "msgtype": "m.text",
        "body": MARK,
        "m.relates_to": {"rel_type": rel_type, "event_id": event_id},
        **content,
    }


async def answers(client: Client, room_id: str, event_id: str, others: str) -> dict[str, Any]:
    """The room by every path: `event_id` of who is erased, `others` by somebody who stays."""
    room, v1 = f"/rooms/{quote(room_id)}", f"/_matrix/client/v1/rooms/{quote(room_id)}"
    subscription = {"timeline_limit": 20, "required_state": []}
    lists = {"lists": {"all": {"ranges": [[0, 9]], **subscription}}}
    context = {"before_limit": 10, "after_limit": 10}
    search = {"search_categories": {"room_events": {"search_term": "opening", "event_context": context}}}
    limit = {"filter": {"room": {"timeline": {"limit": 20}}}}
    found = {
        "sync": await client.sync(full=True, **limit),
        "sliding": await client.post(SLIDING, lists),
        "messages": await client.get(f"{room}/messages?dir=b&limit=50"),
        "event": await client.get(f"{room}/event/{quote(event_id)}"),
        "root": await client.get(f"{room}/event/{quote(others)}"),
        "context": await client.get(f"{room}/context/{quote(others)}?limit=20"),
        "relations": await client.get(f"{v1}/relations/{quote(others)}"),
        "threads": await client.get(f"{v1}/threads"),
        "search": await client.post("/search", search),
        "initialSync": await client.get(f"{room}/initialSync?limit=20"),
        "legacy event": await client.get(f"/events/{quote(event_id)}"),
    }
    return found


def told(answer: Any) -> bool:
    return MARK.encode() in msgspec.json.encode(answer)


@pytest.mark.parametrize("joined", ["before the erasure", "after the erasure"])
async def test_late_comers_see_only_what_a_redaction_would_leave(
    server: Server, alice: Client, bob: Client, carol: Client, joined: str
) -> None:
    room_id = await bob.create_room(preset="public_chat")
    await alice.join(room_id)
    opening = await bob.send(room_id, "opening")
    mine = await alice.send(room_id, MARK)
    await alice.send(room_id, related("m.thread", opening))
    await alice.send(room_id, related("m.replace", mine, **{"m.new_content": {"body": MARK}}))
    await alice.send(room_id, related("m.reference", opening))
    if joined == "before the erasure":
        await carol.join(room_id)
        assert told(await carol.get(f"/rooms/{quote(room_id)}/event/{quote(mine)}"))
    await deactivate(server, alice, erase=True)
    if joined == "after the erasure":
        await carol.join(room_id)
    for consumer in server.app.ground.consumers:
        await consumer.settled(0)
    for path, answer in (await answers(carol, room_id, mine, opening)).items():
        assert not told(answer), path
    seen = await carol.get(f"/rooms/{quote(room_id)}/event/{quote(mine)}")
    assert (seen["content"], seen["sender"], seen["type"]) == ({}, alice.user_id, "m.room.message")
    assert "m.relations" not in seen["unsigned"]
    root = await carol.get(f"/rooms/{quote(room_id)}/event/{quote(opening)}")
    assert "m.relations" not in root["unsigned"]
    assert root["content"]["body"] == "opening", "what others said before is as it was"
    criteria = {"search_categories": {"room_events": {"search_term": MARK}}}
    results = (await carol.post("/search", criteria))["search_categories"]["room_events"]
    assert (results["count"], results["results"]) == (0, [])


async def test_who_was_there_keeps_what_was_sent(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await bob.create_room(preset="public_chat")
    await alice.join(room_id)
    opening = await bob.send(room_id, "opening")
    mine = await alice.send(room_id, MARK)
    await alice.send(room_id, related("m.thread", opening))
    await deactivate(server, alice, erase=True)
    for path, answer in (await answers(bob, room_id, mine, opening)).items():
        assert told(answer), path


async def test_nothing_is_hidden_of_one_who_left_without_erasure(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await bob.create_room(preset="public_chat")
    await alice.join(room_id)
    mine = await alice.send(room_id, MARK)
    await deactivate(server, alice, erase=False)
    await carol.join(room_id)
    assert told(await carol.get(f"/rooms/{quote(room_id)}/event/{quote(mine)}"))


async def test_erasure_holds_after_a_restart(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await bob.create_room(preset="public_chat")
    await alice.join(room_id)
    await alice.send(room_id, MARK)
    await deactivate(server, alice, erase=True)
    await server.restart()
    await carol.join(room_id)
    page = await carol.get(f"/rooms/{quote(room_id)}/messages?dir=b&limit=50")
    assert alice.user_id in [event["sender"] for event in page["chunk"]]
    assert not told(page)


async def test_memberships_stay_what_they_were_without_names(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    """A redaction leaves a membership, and so the room."""
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": MARK})
    room_id = await bob.create_room(preset="public_chat")
    await alice.join(room_id)
    await deactivate(server, alice, erase=True)
    await carol.join(room_id)
    page = await carol.get(f"/rooms/{quote(room_id)}/messages?dir=f&limit=50")
    hers = [event for event in page["chunk"] if event.get("state_key") == alice.user_id]
    assert [event["content"] for event in hers] == [{"membership": "join"}, {"membership": "leave"}]
    assert not told(page)
