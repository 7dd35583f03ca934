"""Filters that no event could pass are told so when they are made; rooms left out (spec: "Filtering")."""

from typing import Any

import orjson
import pytest

from tests.client_api.conftest import Client


@pytest.mark.parametrize(
    "filter",
    [
        {"room": {"rooms": ["kitchen"]}},
        {"room": {"not_rooms": ["#kitchen:localhost"]}},
        {"room": {"timeline": {"rooms": ["@alice:localhost"]}}},
        {"room": {"state": {"senders": ["alice"]}}},
        {"presence": {"not_senders": ["!room:localhost"]}},
        {"event_format": "raw"},
    ],
)
async def test_filter_that_names_no_room_or_no_user_is_refused(alice: Client, filter: Any) -> None:
    assert (
        await alice.call("POST", f"/user/{alice.user_id}/filter", filter, expect=400)
    ).errcode == "M_BAD_JSON"
    query = {"filter": orjson.dumps(filter).decode()}
    await alice.call("GET", "/sync", query=query, expect=400)


async def test_messages_refuse_such_a_filter_too(alice: Client) -> None:
    room_id = await alice.create_room()
    query = {"dir": "b", "filter": '{"senders":["alice"]}'}
    assert (
        await alice.call("GET", f"/rooms/{room_id}/messages", query=query, expect=400)
    ).errcode == "M_BAD_JSON"


async def test_rooms_that_a_filter_leaves_out_show_nothing_of_their_past(alice: Client) -> None:
    room_id, other = await alice.create_room(), await alice.create_room()
    event_id = await alice.send(room_id)
    for filter in ({"not_rooms": [room_id]}, {"rooms": [other]}, {"rooms": []}):
        query = {"filter": orjson.dumps(filter).decode()}
        page = await alice.get(f"/rooms/{room_id}/messages", query={"dir": "b", **query})
        assert page["chunk"] == []
        assert "end" not in page
        around = await alice.get(f"/rooms/{room_id}/context/{event_id}", query=query)
        assert (around["events_before"], around["events_after"], around["state"]) == ([], [], [])
        assert around["event"]["event_id"] == event_id
    query = {"dir": "b", "filter": orjson.dumps({"rooms": [room_id], "not_rooms": [other]}).decode()}
    assert (await alice.get(f"/rooms/{room_id}/messages", query=query))["chunk"]


async def test_state_around_an_event_is_filtered_with_the_events(alice: Client) -> None:
    room_id = await alice.create_room(name="a name", topic="a topic")
    event_id = await alice.send(room_id)
    for filter, types in (
        ({"types": ["m.room.message"]}, set()),
        ({"types": ["m.room.n*", "m.room.topic"], "not_types": ["m.room.topic"]}, {"m.room.name"}),
    ):
        query = {"limit": 2, "filter": orjson.dumps(filter).decode()}
        around = await alice.get(f"/rooms/{room_id}/context/{event_id}", query=query)
        assert {event["type"] for event in around["state"]} == types
        assert around["event"]["event_id"] == event_id


@pytest.mark.parametrize("part", ["timeline", "state", "ephemeral", "account_data"])
async def test_rooms_that_a_filter_leaves_out_of_a_part_of_sync_have_nothing_there(
    alice: Client, part: str
) -> None:
    rooms = [await alice.create_room(name="a name") for _ in range(2)]
    for room_id in rooms:
        said = await alice.send(room_id)
        await alice.put(f"/user/{alice.user_id}/rooms/{room_id}/account_data/org.example.own", {"a": 1})
        await alice.post(f"/rooms/{room_id}/receipt/m.read/{said}")
    for wanted in ({"rooms": rooms[:1]}, {"not_rooms": rooms[1:]}):
        filter = {"room": {"timeline": {"limit": 1}, part: {"limit": 1, **wanted}}}
        joined = (await alice.sync(full=True, filter=filter))["rooms"]["join"]
        assert [bool(joined[room_id][part]["events"]) for room_id in rooms] == [True, False]
