"""Server-side search (spec: client-server "Server Side Search")."""

from typing import Any

import pytest

from homeserver.search import searching as module
from tests.client_api.conftest import Client, Server


async def search(
    server: Server, client: Client, term: str, *, token: str | None = None, **criteria: Any
) -> Any:
    """The `room_events` of an answer, once all that was sent is filed."""
    for consumer in server.app.ground.consumers:
        await consumer.settled(0)
    path = "/search" + (f"?next_batch={token}" if token else "")
    body = {"search_categories": {"room_events": {"search_term": term, "order_by": "recent", **criteria}}}
    return (await client.post(path, body))["search_categories"]["room_events"]


def texts(answer: Any) -> list[str]:
    contents = [result["result"]["content"] for result in answer["results"]]
    return [content.get("body") or content.get("name") or content.get("topic") for content in contents]


async def pages(server: Server, client: Client, term: str, **criteria: Any) -> list[list[str]]:
    answer = await search(server, client, term, **criteria)
    found = [texts(answer)]
    while "next_batch" in answer:
        answer = await search(server, client, term, token=answer["next_batch"], **criteria)
        found.append(texts(answer))
    return found


# --- What is found -------------------------------------------------------------------------------------


async def test_what_was_sent_just_now_is_found(alice: Client) -> None:
    room_id = await alice.create_room()
    for number in range(20):
        await alice.send(room_id, f"number {number}")
        body = {"search_categories": {"room_events": {"search_term": "number"}}}
        found = (await alice.post("/search", body))["search_categories"]["room_events"]
        assert found["count"] == number + 1


@pytest.mark.parametrize("term", ["Müller heißt", "muller HEISST"])
async def test_what_clients_are_to_mark_is_spelled_as_in_the_messages(
    server: Server, alice: Client, term: str
) -> None:
    """They mark the very letters that they are told, but for case."""
    room_id = await alice.create_room(name="Wie heißt er?", topic="heisst, nicht heiss")
    await alice.send(room_id, "Er heißt MÜLLER.")
    await alice.send(room_id, "heisst er Mu\u0308ller oder Muller?")
    answer = await search(server, alice, term)
    assert len(answer["results"]) == 2
    assert sorted(answer["highlights"]) == sorted(["müller", "mu\u0308ller", "muller", "heißt", "heisst"])


async def test_messages_names_and_topics_are_found_by_their_words(server: Server, alice: Client) -> None:
    room_id = await alice.create_room(name="Martian tea", topic="All about tea")
    event_id = await alice.send(room_id, "Tea, please. EARL grey!")
    await alice.send(room_id, "no coffee")
    answer = await search(server, alice, "tea")
    assert sorted(texts(answer)) == ["All about tea", "Martian tea", "Tea, please. EARL grey!"]
    assert answer["count"] == 3
    assert answer["highlights"] == ["tea"]
    assert "next_batch" not in answer
    (result,) = (await search(server, alice, "grey earl"))["results"]
    assert result["result"]["event_id"] == event_id
    assert result["result"]["room_id"] == room_id
    assert result["rank"] > 0
    assert "context" not in result
    for term in ("tea coffee", "mart", "", "!!"):
        assert (await search(server, alice, term))["results"] == []


async def test_the_plain_form_of_a_rich_topic_is_searched(server: Server, alice: Client) -> None:
    room_id = await alice.create_room()
    rich = [{"mimetype": "text/html", "body": "<b>markup</b>"}, {"body": "crumpets"}]
    await alice.set_state(room_id, "m.room.topic", {"topic": "scones", "m.topic": {"m.text": rich}})
    for term, count in (("scones", 1), ("crumpets", 1), ("markup", 0)):
        assert (await search(server, alice, term))["count"] == count


async def test_keys_say_what_is_searched(server: Server, alice: Client) -> None:
    room_id = await alice.create_room(name="x name", topic="x topic")
    await alice.send(room_id, "x body")
    for key, text in (("content.body", "x body"), ("content.name", "x name"), ("content.topic", "x topic")):
        assert texts(await search(server, alice, "x", keys=[key])) == [text]
    assert len(texts(await search(server, alice, "x", keys=["content.body", "content.name"]))) == 2


async def test_the_filter_narrows_by_room_sender_and_type(server: Server, alice: Client, bob: Client) -> None:
    first = await alice.create_room(preset="public_chat", name="x name")
    second = await alice.create_room(preset="public_chat")
    for room_id in (first, second):
        await bob.join(room_id)
    await alice.send(first, "x alice first")
    await bob.send(first, "x bob first")
    await bob.send(second, {"msgtype": "m.image", "body": "x image", "url": "mxc://localhost/x"})
    for wanted, expected in (
        ({"rooms": [second]}, ["x image"]),
        ({"not_rooms": [second]}, ["x bob first", "x alice first", "x name"]),
        ({"senders": [bob.user_id]}, ["x image", "x bob first"]),
        ({"not_senders": [bob.user_id]}, ["x alice first", "x name"]),
        ({"types": ["m.room.name"]}, ["x name"]),
        ({"not_types": ["m.room.*"]}, []),
        ({"contains_url": True}, ["x image"]),
        ({"limit": 1}, ["x image"]),
    ):
        assert texts(await search(server, bob, "x", filter=wanted)) == expected, wanted


async def test_by_rank_the_better_match_comes_first(server: Server, alice: Client) -> None:
    room_id = await alice.create_room()
    await alice.send(room_id, "tea tea tea")
    for _ in range(5):
        await alice.send(room_id, "something else altogether")
    await alice.send(room_id, "tea and many other words that have nothing to do with it at all")
    answer = await search(server, alice, "tea", order_by="rank")
    assert texts(answer)[0] == "tea tea tea"
    assert answer["results"][0]["rank"] > answer["results"][1]["rank"]
    assert texts(await search(server, alice, "tea"))[1] == "tea tea tea"


# --- Who may find it -----------------------------------------------------------------------------------


async def test_only_rooms_one_has_been_in_and_only_what_one_may_see(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    """HARDENING 35."""
    joined_only = [{"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}]
    room_id = await alice.create_room(preset="public_chat", initial_state=joined_only)
    await alice.send(room_id, "secret before")
    await bob.join(room_id)
    await alice.send(room_id, "secret during")
    await bob.leave(room_id)
    await alice.send(room_id, "secret after")
    assert texts(await search(server, bob, "secret")) == ["secret during"]
    assert texts(await search(server, carol, "secret", filter={"rooms": [room_id]})) == []
    await alice.invite(room_id, carol.user_id)
    assert texts(await search(server, carol, "secret")) == []
    await bob.post(f"/rooms/{room_id}/forget")
    assert texts(await search(server, bob, "secret")) == []
    assert len(texts(await search(server, alice, "secret"))) == 3


async def test_ignored_users_are_not_found(server: Server, alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.send(room_id, "tiresome")
    ignored: dict[str, Any] = {"ignored_users": {bob.user_id: {}}}
    await alice.put(f"/user/{alice.user_id}/account_data/m.ignored_user_list", ignored)
    assert texts(await search(server, alice, "tiresome")) == []


async def test_encrypted_rooms_are_not_searched(server: Server, alice: Client) -> None:
    room_id = await alice.create_room()
    await alice.send(room_id, "before encryption")
    assert len(texts(await search(server, alice, "encryption"))) == 1
    await alice.set_state(room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    await alice.send(room_id, "plain in spite of encryption")
    assert texts(await search(server, alice, "encryption")) == []


# --- What is gone --------------------------------------------------------------------------------------


async def test_half_redaction(server: Server, alice: Client) -> None:
    """HARDENING 18: what was redacted is neither found nor left in the store."""
    room_id = await alice.create_room()
    await alice.send(room_id, "harmless plover")
    event_id = await alice.send(room_id, "xyzzy plover")
    await alice.set_state(room_id, "m.room.topic", {"topic": "xyzzy topic"})
    topic_id = (await alice.get(f"/rooms/{room_id}/state/m.room.topic?format=event"))["event_id"]
    assert (await search(server, alice, "xyzzy"))["count"] == 2
    for redacted in (event_id, topic_id):
        await alice.redact(room_id, redacted)
    assert (await search(server, alice, "xyzzy"))["count"] == 0
    assert texts(await search(server, alice, "plover")) == ["harmless plover"]
    await server.stop()
    stored = server.data.kept()
    assert b"plover" in stored
    assert b"xyzzy" not in stored
    await server.start()


async def test_a_redaction_without_the_power_takes_nothing_out(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    event_id = await alice.send(room_id, "steadfast")
    await bob.call("PUT", f"/rooms/{room_id}/redact/{event_id}/1", {}, expect=403)
    assert len(texts(await search(server, alice, "steadfast"))) == 1


async def test_a_message_redacted_while_filing_lags_behind_is_not_found(
    server: Server, alice: Client
) -> None:
    room_id = await alice.create_room()
    for number in range(120):
        await alice.redact(room_id, await alice.send(room_id, f"fleeting {number}"))
    assert texts(await search(server, alice, "fleeting")) == []


# --- Pages, groups, context ----------------------------------------------------------------------------


@pytest.mark.parametrize("order_by", ["recent", "rank"])
async def test_pages_join_without_gap_or_overlap(server: Server, alice: Client, order_by: str) -> None:
    room_id = await alice.create_room()
    sent = [f"tea number {n} " + "word " * (n % 7) for n in range(23)]
    for text in sent:
        await alice.send(room_id, text)
    found = await pages(server, alice, "tea", order_by=order_by, filter={"limit": 5})
    assert [len(page) for page in found] == [5, 5, 5, 5, 3]
    joined = [text for page in found for text in page]
    assert sorted(joined) == sorted(sent)
    if order_by == "recent":
        assert joined == sent[::-1]


async def test_what_comes_meanwhile_does_not_disturb_the_pages(server: Server, alice: Client) -> None:
    room_id = await alice.create_room()
    for number in range(6):
        await alice.send(room_id, f"tea {number}")
    for order_by in ("recent", "rank"):
        first = await search(server, alice, "tea", order_by=order_by, filter={"limit": 3})
        await alice.send(room_id, "tea meanwhile")
        second = await search(
            server, alice, "tea", order_by=order_by, filter={"limit": 3}, token=first["next_batch"]
        )
        assert len(set(texts(first) + texts(second))) == 6


async def test_work_is_bounded_and_the_token_goes_on(
    server: Server, alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HARDENING 22: pages move on through what may not be seen."""
    monkeypatch.setattr(module, "MAX_EXAMINED", 5)
    joined_only = [{"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}]
    room_id = await alice.create_room(preset="public_chat", initial_state=joined_only)
    await bob.join(room_id)
    await alice.send(room_id, "tea for two")
    await bob.leave(room_id)
    for _ in range(12):
        await alice.send(room_id, "tea alone")
    found = await pages(server, bob, "tea")
    assert [page for page in found if page] == [["tea for two"]]
    assert len(found) == 3


async def test_groups_have_their_results_and_go_on_by_themselves(
    server: Server, alice: Client, bob: Client
) -> None:
    rooms = [await alice.create_room(preset="public_chat") for _ in range(2)]
    for room_id in rooms:
        await bob.join(room_id)
    for number in range(8):
        sender = (alice, bob)[number % 2]
        await sender.send(rooms[number // 4], f"tea {number}")
    grouped = {"group_by": [{"key": "room_id"}, {"key": "sender"}]}
    for order_by in ("recent", "rank"):
        criteria: dict[str, Any] = {"groupings": grouped, "filter": {"limit": 6}, "order_by": order_by}
        answer = await search(server, alice, "tea", **criteria)
        groups = answer["groups"]
        assert set(groups) == {"room_id", "sender"}
        shown = {result["result"]["event_id"] for result in answer["results"]}
        for key in ("room_id", "sender"):
            listed = [event_id for group in groups[key].values() for event_id in group["results"]]
            assert sorted(listed) == sorted(shown)
        for value, group in groups["room_id"].items():
            more = await search(server, alice, "tea", token=group["next_batch"], **criteria)
            rest = {result["result"]["event_id"] for result in more["results"]}
            assert {result["result"]["room_id"] for result in more["results"]} <= {value}
            assert len(rest | set(group["results"])) == 4
            assert not rest & set(group["results"])


async def test_context_shows_what_was_around_and_who_they_were(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Then"})
    for text in ("one", "two", "needle", "four", "five"):
        await alice.send(room_id, text)
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Now"})
    wanted = {"before_limit": 1, "after_limit": 2, "include_profile": True}
    answer = await search(server, bob, "needle", event_context=wanted)
    context = answer["results"][0]["context"]
    assert [event["content"]["body"] for event in context["events_before"]] == ["two"]
    assert [event["content"]["body"] for event in context["events_after"]] == ["four", "five"]
    assert context["profile_info"] == {alice.user_id: {"displayname": "Then"}}
    earlier = await bob.get(f"/rooms/{room_id}/messages?dir=b&limit=1&from={context['start']}")
    assert earlier["chunk"][0]["content"]["body"] == "one"
    none = await search(server, bob, "needle", event_context={"before_limit": 0, "after_limit": 0})
    assert none["results"][0]["context"]["events_before"] == []


async def test_state_of_the_rooms_is_included_when_asked_for(server: Server, alice: Client) -> None:
    room_id = await alice.create_room(name="here")
    await alice.send(room_id, "needle")
    answer = await search(server, alice, "needle", include_state=True)
    assert set(answer["state"]) == {room_id}
    assert "here" in [event["content"].get("name") for event in answer["state"][room_id]]


# --- Odd requests, restarts ----------------------------------------------------------------------------


async def test_without_a_category_nothing_is_searched(alice: Client) -> None:
    assert await alice.post("/search", {"search_categories": {}}) == {"search_categories": {}}


@pytest.mark.parametrize(
    "criteria",
    [
        {},
        {"search_term": 7},
        {"search_term": "x", "keys": ["content.secret"]},
        {"search_term": "x", "order_by": "chance"},
        {"search_term": "x", "groupings": {"group_by": [{"key": "type"}]}},
        {"search_term": "x", "filter": {"limit": "many"}},
    ],
)
async def test_what_is_no_search_is_refused(alice: Client, criteria: dict[str, Any]) -> None:
    await alice.call("POST", "/search", {"search_categories": {"room_events": criteria}}, expect=400)


@pytest.mark.parametrize("token", ["x", "WzEsMl0x", "e30", "W251bGwsbnVsbCwtMV0", "x" * 5000, "é"])
async def test_tokens_of_elsewhere_are_refused(alice: Client, token: str) -> None:
    body = {"search_categories": {"room_events": {"search_term": "x"}}}
    await alice.call("POST", "/search", body, query={"next_batch": token}, expect=400)


async def test_a_token_gives_no_way_into_a_room_of_others(server: Server, alice: Client, bob: Client) -> None:
    room_id = await alice.create_room()
    for number in range(3):
        await alice.send(room_id, f"tea {number}")
    criteria: dict[str, Any] = {"groupings": {"group_by": [{"key": "room_id"}]}, "filter": {"limit": 1}}
    answer = await search(server, alice, "tea", **criteria)
    token = answer["groups"]["room_id"][room_id]["next_batch"]
    assert texts(await search(server, bob, "tea", token=token, **criteria)) == []


async def test_what_was_sent_is_found_after_a_restart(server: Server, alice: Client) -> None:
    room_id = await alice.create_room()
    await alice.send(room_id, "durable")
    await server.restart()
    again = server.client()
    again.token, again.user_id = alice.token, alice.user_id
    await again.send(room_id, "durable too", txn="after")
    assert texts(await search(server, again, "durable")) == ["durable too", "durable"]
