"""History visibility by every path that shows events (HARDENING 35): each setting × each membership."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.client_api.conftest import Client, Server

V1 = "/_matrix/client/v1"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
SEEN = {
    "world_readable": {"before", "invited", "joined", "left", "again"},
    "shared": {"before", "invited", "joined", "left", "again"},
    "invited": {"invited", "joined", "again"},
    "joined": {"joined", "again"},
}
"""What one who is in the room may see of the times at which an event was sent."""


async def tell(alice: Client, room_id: str, root: str, time: str) -> str:
    relates = {"m.relates_to": {"rel_type": "m.reference", "event_id": root}}
    return await alice.send(room_id, {"msgtype": "m.text", "body": f"word {time}", **relates})


def told(answer: Any, sent: dict[str, str]) -> set[str]:
    """The times whose events are in an answer."""
    text = str(answer)
    return {time for time, event_id in sent.items() if f"word {time}" in text or event_id in text}


@pytest.mark.parametrize("visibility", SEEN)
async def test_hardening_35_what_may_not_be_seen_is_seen_by_no_path(
    server: Server, alice: Client, bob: Client, visibility: str
) -> None:
    setting = {"type": "m.room.history_visibility", "content": {"history_visibility": visibility}}
    room_id = await alice.create_room(preset="private_chat", initial_state=[setting])
    room = f"/rooms/{quote(room_id)}"
    root = await alice.send(room_id, "root")
    sent = {"before": await tell(alice, room_id, root, "before")}
    await alice.invite(room_id, bob.user_id)
    sent["invited"] = await tell(alice, room_id, root, "invited")
    await bob.join(room_id)
    late = await alice.send(room_id, "late root")
    sent["joined"] = await tell(alice, room_id, late, "joined")
    await bob.leave(room_id)
    sent["left"] = await tell(alice, room_id, late, "left")

    former = SEEN[visibility] - {"left", "again"} | ({"left"} if visibility == "world_readable" else set())
    for time, event_id in sent.items():
        status = (await bob.call("GET", f"{room}/event/{quote(event_id)}", expect=None)).status
        assert (status == 200) == (time in former), time
    await alice.invite(room_id, bob.user_id)
    await bob.join(room_id)
    sent["again"] = await tell(alice, room_id, late, "again")
    for consumer in server.app.ground.consumers:
        await consumer.settled(0)

    seen = SEEN[visibility]
    for time, event_id in sent.items():
        status = (await bob.call("GET", f"{room}/event/{quote(event_id)}", expect=None)).status
        assert (status == 200) == (time in seen), time
        status = (await bob.call("GET", f"{room}/context/{quote(event_id)}?limit=50", expect=None)).status
        assert (status == 200) == (time in seen), time
    wide = {"room": {"timeline": {"limit": 50}}}
    lists = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 50, "required_state": []}}}
    search = {"search_categories": {"room_events": {"search_term": "word", "order_by": "recent"}}}
    answers = {
        "sync": await bob.sync(full=True, filter=wide),
        "sliding": await bob.post(SLIDING, lists),
        "backwards": await bob.get(f"{room}/messages?dir=b&limit=50"),
        "forwards": await bob.get(f"{room}/messages?dir=f&limit=50"),
        "context": await bob.get(f"{room}/context/{quote(sent['again'])}?limit=50"),
        "search": await bob.post("/search", search),
        "initialSync": await bob.get(f"{room}/initialSync?limit=50"),
    }
    for path, answer in answers.items():
        assert told(answer, sent) == seen, path
    late_children = await bob.get(f"{V1}{room}/relations/{quote(late)}")
    assert told(late_children, sent) == seen & {"joined", "left", "again"}
    bundle = (await bob.get(f"{room}/event/{quote(late)}"))["unsigned"]["m.relations"]["m.reference"]
    assert told(bundle, sent) == seen & {"joined", "left", "again"}


async def test_hardening_35_context_has_no_state_of_after_the_reader_left(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat", topic="known")
    await bob.join(room_id)
    event_id = await alice.send(room_id, "seen")
    await bob.leave(room_id)
    await alice.set_state(room_id, "m.room.topic", {"topic": "secret"})
    answer = await bob.get(f"/rooms/{quote(room_id)}/context/{quote(event_id)}")
    topics = [event["content"]["topic"] for event in answer["state"] if event["type"] == "m.room.topic"]
    assert topics == ["known"]


async def test_hardening_35_messages_have_no_members_of_after_the_reader_left(
    alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await alice.send(room_id, "seen")
    await bob.leave(room_id)
    await alice.set_state(
        room_id, "m.room.member", {"membership": "join", "displayname": "secret"}, alice.user_id
    )
    query = {"dir": "b", "filter": '{"lazy_load_members": true}'}
    answer = await bob.get(f"/rooms/{quote(room_id)}/messages", query=query)
    members = {event["state_key"]: event["content"].get("displayname") for event in answer["state"]}
    assert members[alice.user_id] == "alice"
    assert {event["type"] for event in answer["state"]} == {"m.room.member"}
    assert members.keys() == {event["sender"] for event in answer["chunk"]}
