"""/sync: timelines, gaps, state, lazy members, filters (spec: client-server "Syncing", "Filtering")."""

import asyncio
from collections import Counter
from pkgutil import resolve_name
from typing import Any

import msgspec
import pytest

from homeserver.errors import MatrixError
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import check_content_hash, event_id_of
from homeserver.rooms import fragments
from homeserver.rooms.authoring import EventTemplate
from homeserver.rooms.posting import post
from homeserver.tasks import end
from tests.client_api.conftest import Client, Server

LAZY = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}


def limit(n: int) -> dict[str, Any]:
    return {"room": {"timeline": {"limit": n}}}


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["event_id"] for event in events]


async def pair(alice: Client, bob: Client, **options: Any) -> str:
    room_id = await alice.create_room(preset="public_chat", **options)
    await bob.join(room_id)
    await alice.sync()
    await bob.sync()
    return room_id


async def test_gap_is_marked_and_filled_by_paging_back(alice: Client, bob: Client) -> None:
    room_id = await pair(alice, bob)
    sent = [await alice.send(room_id, str(n)) for n in range(10)]
    section = (await bob.sync(filter=limit(3)))["rooms"]["join"][room_id]
    assert section["timeline"]["limited"] is True
    assert ids(section["timeline"]["events"]) == sent[-3:]
    query = {"dir": "b", "from": section["timeline"]["prev_batch"], "limit": 7}
    page = await bob.get(f"/rooms/{room_id}/messages", query=query)
    assert ids(page["chunk"]) == sent[6::-1]


async def test_gap_beyond_memory_is_read_from_the_log(server: Server, alice: Client, bob: Client) -> None:
    room_id = await pair(alice, bob)
    since = bob.next_batch
    sent = [await alice.send(room_id, str(n)) for n in range(60)]
    await server.restart()
    again = server.client()
    again.token, again.next_batch = bob.token, since
    section = (await again.sync(filter=limit(50)))["rooms"]["join"][room_id]
    assert ids(section["timeline"]["events"]) == sent[-50:]
    assert section["timeline"]["limited"] is True


async def test_state_that_changed_in_the_gap_comes_beside_the_timeline(alice: Client, bob: Client) -> None:
    room_id = await pair(alice, bob)
    topic = await alice.set_state(room_id, "m.room.topic", {"topic": "in the gap"})
    name_before = await alice.set_state(room_id, "m.room.name", {"name": "in the gap"})
    for n in range(5):
        await alice.send(room_id, str(n))
    await alice.set_state(room_id, "m.room.name", {"name": "in the timeline"})
    section = (await bob.sync(filter=limit(2)))["rooms"]["join"][room_id]
    assert set(ids(section["state"]["events"])) == {topic, name_before}


async def test_state_after_is_the_state_at_the_end(alice: Client, bob: Client) -> None:
    room_id = await pair(alice, bob)
    await alice.set_state(room_id, "m.room.name", {"name": "first"})
    last = await alice.set_state(room_id, "m.room.name", {"name": "last"})
    section = (await bob.sync(filter=limit(1), use_state_after="true"))["rooms"]["join"][room_id]
    assert "state" not in section
    assert ids(section["state_after"]["events"]) == [last]


async def test_full_state_is_sent_on_demand(alice: Client, bob: Client) -> None:
    room_id = await pair(alice, bob)
    section = (await bob.sync(full_state="true"))["rooms"]["join"][room_id]
    types = {event["type"] for event in section["state"]["events"]}
    assert {"m.room.create", "m.room.member", "m.room.power_levels"} <= types
    assert section["timeline"]["events"] == []


async def test_lazy_loading_sends_each_speaker_once(alice: Client, bob: Client, carol: Client) -> None:
    room_id = await pair(alice, bob, name="named")
    await carol.join(room_id)
    await carol.send(room_id, "hi")

    def members(section: dict[str, Any]) -> set[str]:
        return {e["state_key"] for e in section["state"]["events"] if e["type"] == "m.room.member"}

    section = (await bob.sync(full=True, filter=LAZY))["rooms"]["join"][room_id]
    assert members(section) == {carol.user_id, bob.user_id}
    await carol.send(room_id, "again")
    section = (await bob.sync(filter=LAZY))["rooms"]["join"][room_id]
    assert members(section) == set()
    await alice.send(room_id, "me too")
    section = (await bob.sync(filter=LAZY))["rooms"]["join"][room_id]
    assert members(section) == {alice.user_id}
    redundant = {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}}}
    await alice.send(room_id, "and again")
    section = (await bob.sync(filter=redundant))["rooms"]["join"][room_id]
    assert members(section) == {alice.user_id}


async def test_full_state_holds_nothing_back_that_the_client_was_sent_before(
    alice: Client, bob: Client
) -> None:
    """Who asks for it has nothing but a token: bots that began anew, as those on nio do."""
    room_id = await pair(alice, bob)
    await alice.send(room_id)
    first = (await bob.sync(full=True, filter=LAZY))["rooms"]["join"][room_id]
    again = (await bob.sync(filter=LAZY, full_state="true"))["rooms"]["join"][room_id]
    for section in (first, again):
        members = [e["state_key"] for e in section["state"]["events"] if e["type"] == "m.room.member"]
        assert sorted(members) == sorted([alice.user_id, bob.user_id])
    assert again["summary"] == first["summary"]


async def test_lazy_loading_holds_nothing_back_that_only_an_abandoned_answer_had(
    server: Server, alice: Client, bob: Client
) -> None:
    """A client that asks again takes the second answer; the first may be in the making still."""
    room_id = await pair(alice, bob, name="named")
    await bob.sync(full=True, filter=LAZY)
    await alice.send(room_id)
    await server.restart()
    polls = await asyncio.gather(*(bob.sync(filter=LAZY, since=bob.next_batch) for _ in range(2)))
    for body in polls:
        state = body["rooms"]["join"][room_id]["state"]["events"]
        assert [e["state_key"] for e in state if e["type"] == "m.room.member"] == [alice.user_id]


async def test_lazy_loading_sends_those_whom_a_room_is_named_after(
    alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await pair(alice, bob)
    await carol.join(room_id)
    await bob.send(room_id)

    async def shown(**options: Any) -> tuple[set[str], dict[str, Any]]:
        section = (await bob.sync(filter=LAZY, **options))["rooms"]["join"][room_id]
        state = section["state"]["events"]
        return {e["state_key"] for e in state if e["type"] == "m.room.member"}, section["summary"]

    members, summary = await shown(full=True)
    assert summary["m.heroes"] == [alice.user_id, carol.user_id]
    assert members == {alice.user_id, bob.user_id, carol.user_id}
    await alice.send(room_id)
    await alice.send(room_id)
    members, summary = await shown()
    assert summary["m.heroes"] == [alice.user_id, carol.user_id]
    assert members == set()


@pytest.mark.parametrize(("state_after", "kicks_last"), [("false", False), ("true", False), ("true", True)])
async def test_lazy_loading_tells_of_all_who_came_and_went_since(
    alice: Client, bob: Client, carol: Client, state_after: str, kicks_last: bool
) -> None:
    """By that clients maintain the list of members, once they have it (spec: "Lazy-loading room members")."""
    room_id = await pair(alice, bob)
    await carol.join(room_id)
    await alice.send(room_id)
    await bob.sync(full=True, filter=LAZY)
    if not kicks_last:
        await carol.leave(room_id)
    await alice.send(room_id)
    if kicks_last:
        await alice.post(f"/rooms/{room_id}/kick", {"user_id": carol.user_id})
    section = (await bob.sync(filter=LAZY, use_state_after=state_after))["rooms"]["join"][room_id]
    state = section["state_after" if state_after == "true" else "state"]["events"]
    assert {e["state_key"]: e["content"]["membership"] for e in state}[carol.user_id] == "leave"


@pytest.mark.parametrize("timeline", [{"types": ["m.room.message"]}, {"types": []}, {"rooms": []}])
async def test_state_that_the_filter_holds_back_from_the_timeline_comes_beside_it(
    alice: Client, bob: Client, timeline: dict[str, Any]
) -> None:
    room_id = await pair(alice, bob)
    wanted = {"room": {"timeline": timeline}}
    section = (await bob.sync(full=True, filter=wanted))["rooms"]["join"][room_id]
    whole = await bob.get(f"/rooms/{room_id}/state")
    assert sorted(ids(section["state"]["events"])) == sorted(ids(whole))
    await alice.set_state(room_id, "m.room.topic", {"topic": "old"})
    topic = await alice.set_state(room_id, "m.room.topic", {"topic": "new"})
    await alice.send(room_id)
    section = (await bob.sync(filter=wanted))["rooms"]["join"][room_id]
    assert ids(section["state"]["events"]) == [topic]
    name = await alice.set_state(room_id, "m.room.name", {"name": "seen"})
    section = (await bob.sync())["rooms"]["join"][room_id]
    assert section["state"]["events"] == []
    assert ids(section["timeline"]["events"]) == [name]


def state_told(section: dict[str, Any]) -> dict[tuple[str, str], str]:
    """The room's state for a client that puts together what it was told."""
    if "state_after" in section:
        told = section["state_after"]["events"]
    else:
        told = [*section["state"]["events"], *section["timeline"]["events"]]
    return {(e["type"], e["state_key"]): e["event_id"] for e in told if "state_key" in e}


async def state_now(client: Client, room_id: str) -> dict[tuple[str, str], str]:
    events = await client.get(f"/rooms/{room_id}/state")
    return {(e["type"], e["state_key"]): e["event_id"] for e in events}


async def test_state_from_when_one_was_not_there_is_told_all_the_same(
    alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await pair(alice, bob)
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    await bob.sync()
    await alice.set_state(room_id, "m.room.topic", {"topic": "seen"})
    await bob.leave(room_id)
    missed = await alice.send(room_id, "missed")
    await alice.set_state(room_id, "m.room.topic", {"topic": "new"})
    await carol.join(room_id)
    await bob.join(room_id)
    section = (await bob.sync(filter=limit(50)))["rooms"]["join"][room_id]
    assert missed not in ids(section["timeline"]["events"])
    assert state_told(section) == await state_now(bob, room_id)


async def test_lazy_loading_tells_those_who_came_back_who_went_meanwhile(
    alice: Client, bob: Client, carol: Client
) -> None:
    """Another device has left and joined again: this one has members from before."""
    room_id = await pair(alice, bob, name="named")
    await carol.join(room_id)
    await bob.sync()
    await bob.leave(room_id)
    await carol.leave(room_id)
    await bob.join(room_id)
    section = (await bob.sync(filter=LAZY))["rooms"]["join"][room_id]
    members = {key[1]: event_id for key, event_id in state_told(section).items() if key[0] == "m.room.member"}
    gone = await bob.get(f"/rooms/{room_id}/state/m.room.member/{carol.user_id}", query={"format": "event"})
    assert members[carol.user_id] == gone["event_id"]
    assert alice.user_id not in members


@pytest.mark.parametrize("state_after", ["false", "true"])
@pytest.mark.parametrize("timeline_limit", [1, 50])
async def test_archived_room_has_the_state_from_before_one_came(
    alice: Client, bob: Client, timeline_limit: int, state_after: str
) -> None:
    room_id = await alice.create_room(preset="public_chat", name="Hall")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    await bob.join(room_id)
    await bob.leave(room_id)
    await alice.set_state(room_id, "m.room.topic", {"topic": "unknown to Bob"})
    wanted = {"room": {"include_leave": True, "timeline": {"limit": timeline_limit}}}
    body = await bob.sync(full=True, filter=wanted, use_state_after=state_after)
    section = body["rooms"]["leave"][room_id]
    assert state_told(section) == await state_now(bob, room_id)


@pytest.mark.parametrize("timeline_limit", [1, 50])
async def test_who_is_put_out_is_told_so_in_state_after(
    alice: Client, bob: Client, timeline_limit: int
) -> None:
    """Its clients take no state from the timeline: by whom, and why, they would not know."""
    room_id = await pair(alice, bob, name="Hall")
    named = await alice.set_state(room_id, "m.room.name", {"name": "Last seen"})
    await alice.post(f"/rooms/{room_id}/kick", {"user_id": bob.user_id, "reason": "noise"})
    body = await bob.sync(filter=limit(timeline_limit), use_state_after="true")
    told = {e["type"]: e for e in body["rooms"]["leave"][room_id]["state_after"]["events"]}
    assert set(told) == {"m.room.name", "m.room.member"}
    assert told["m.room.name"]["event_id"] == named
    assert told["m.room.member"]["state_key"] == bob.user_id
    assert told["m.room.member"]["content"]["reason"] == "noise"


@pytest.mark.parametrize("state_after", ["false", "true"])
async def test_lazy_loading_sends_those_by_whom_one_is_put_out(
    alice: Client, bob: Client, carol: Client, state_after: str
) -> None:
    room_id = await pair(alice, bob, name="named")
    await carol.join(room_id)
    await carol.send(room_id)
    await bob.sync(full=True, filter=LAZY, use_state_after=state_after)
    member = await bob.get(f"/rooms/{room_id}/state/m.room.member/{alice.user_id}", query={"format": "event"})
    await alice.post(f"/rooms/{room_id}/kick", {"user_id": bob.user_id})
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "unknown to Bob"})
    section = (await bob.sync(filter=LAZY, use_state_after=state_after))["rooms"]["leave"][room_id]
    assert state_told(section)["m.room.member", alice.user_id] == member["event_id"]


async def test_who_rejects_an_invite_is_told_so_in_state_after(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(invite=[bob.user_id])
    await bob.sync(use_state_after="true")
    await bob.leave(room_id)
    section = (await bob.sync(use_state_after="true"))["rooms"]["leave"][room_id]
    (own,) = section["state_after"]["events"]
    assert (own["state_key"], own["content"]["membership"]) == (bob.user_id, "leave")


@pytest.mark.parametrize(
    ("timeline", "expected"),
    [
        ({"types": ["m.room.message"]}, ["message"]),
        ({"types": ["m.room.*"], "not_types": ["m.room.topic"]}, ["message"]),
        ({"not_senders": ["@alice:localhost"]}, []),
        ({"senders": ["@alice:localhost"]}, ["message", "topic", "custom"]),
        ({"rooms": []}, []),
        ({"limit": 1}, ["custom"]),
    ],
)
async def test_timeline_filter_lets_through_what_it_names(
    alice: Client, bob: Client, timeline: dict[str, Any], expected: list[str]
) -> None:
    room_id = await pair(alice, bob)
    sent = {
        "message": await alice.send(room_id),
        "topic": await alice.set_state(room_id, "m.room.topic", {"topic": "t"}),
        "custom": await alice.send(room_id, {"x": 1}, type="org.example.custom"),
    }
    body = await bob.sync(filter={"room": {"timeline": timeline}})
    section = body.get("rooms", {}).get("join", {}).get(room_id, {"timeline": {"events": []}})
    assert ids(section["timeline"]["events"]) == [sent[name] for name in expected]


async def test_stored_filter_is_used_by_its_id(alice: Client, bob: Client) -> None:
    room_id = await pair(alice, bob)
    reply = await bob.post(f"/user/{bob.user_id}/filter", limit(1))
    assert await bob.get(f"/user/{bob.user_id}/filter/{reply['filter_id']}") == limit(1)
    await alice.send(room_id)
    last = await alice.send(room_id)
    body = await bob.get("/sync", query={"since": bob.next_batch, "filter": reply["filter_id"]})
    assert ids(body["rooms"]["join"][room_id]["timeline"]["events"]) == [last]
    await bob.call("GET", "/sync", query={"filter": "nosuch"}, expect=400)
    await alice.call("GET", f"/user/{bob.user_id}/filter/{reply['filter_id']}", expect=403)


@pytest.mark.parametrize("part", ["state", "state_after"])
async def test_events_come_as_servers_tell_them_where_the_filter_asks_for_it(
    alice: Client, bob: Client, part: str
) -> None:
    version = ROOM_VERSIONS["12"]
    room_id = await alice.create_room(preset="public_chat", name="n", room_version="12")
    rude, said = await alice.send(room_id, "rude"), await alice.send(room_id, "said")
    redaction = (await alice.put(f"/rooms/{room_id}/redact/{rude}/1", {}))["event_id"]
    await bob.join(room_id)
    filter = {"event_format": "federation", **limit(4)}
    query = {"use_state_after": "true"} if part == "state_after" else {}
    body = await bob.sync(filter=filter, **query)
    section = body["rooms"]["join"][room_id]
    timeline, state = section["timeline"]["events"], section[part]["events"]
    assert ids(timeline)[:3] == [rude, said, redaction]
    assert {"m.room.create", "m.room.name"} <= {event["type"] for event in state}
    for event in timeline + state:
        signed = {key: value for key, value in event.items() if key != "event_id"}
        assert event_id_of(version, signed) == event["event_id"]
        assert check_content_hash(version, signed) is (event["event_id"] not in (rude, redaction))
        assert list(event["signatures"]) == [alice.user_id.partition(":")[2]]
        assert event["unsigned"]["age"] >= 0
    assert timeline[0]["content"] == {}
    assert timeline[0]["unsigned"]["redacted_because"]["event_id"] == redaction
    assert timeline[1]["content"]["body"] == "said"
    again = await bob.sync(full=True, filter=limit(4))
    assert "hashes" not in again["rooms"]["join"][room_id]["timeline"]["events"][0]


async def test_room_joined_since_comes_whole(alice: Client, bob: Client) -> None:
    await bob.sync()
    room_id = await alice.create_room(preset="public_chat", name="n")
    for n in range(20):
        await alice.send(room_id, str(n))
    await bob.join(room_id)
    section = (await bob.sync())["rooms"]["join"][room_id]
    assert section["timeline"]["limited"] is True
    assert len(section["timeline"]["events"]) == 10
    assert "m.room.name" in {event["type"] for event in section["state"]["events"]}


async def test_rejoined_room_comes_whole_though_the_leave_was_missed(alice: Client, bob: Client) -> None:
    room_id = await pair(alice, bob)
    await bob.leave(room_id)
    await alice.set_state(room_id, "m.room.name", {"name": "while away"})
    await bob.join(room_id)
    body = await bob.sync(filter=limit(1))
    section = body["rooms"]["join"][room_id]
    assert "m.room.name" in {event["type"] for event in section["state"]["events"]}
    assert room_id not in body["rooms"].get("leave", {})


async def test_ignored_users_messages_and_invites_are_dropped(alice: Client, bob: Client) -> None:
    room_id = await pair(alice, bob)
    ignored = {"ignored_users": {alice.user_id: {}}}
    await bob.put(f"/user/{bob.user_id}/account_data/m.ignored_user_list", ignored)
    await bob.sync()
    await alice.send(room_id, "unwanted")
    state = await alice.set_state(room_id, "m.room.topic", {"topic": "state still comes"})
    await alice.create_room(invite=[bob.user_id])
    rooms = (await bob.sync())["rooms"]
    assert ids(rooms["join"][room_id]["timeline"]["events"]) == [state]
    assert "invite" not in rooms


async def test_invite_that_is_withdrawn_moves_to_leave(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(invite=[bob.user_id])
    assert room_id in (await bob.sync())["rooms"]["invite"]
    await alice.post(f"/rooms/{room_id}/kick", {"user_id": bob.user_id})
    rooms = (await bob.sync())["rooms"]
    assert room_id in rooms["leave"]
    assert "invite" not in rooms


async def test_who_is_put_out_while_a_sync_is_answered_misses_nothing_before_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, alice: Client, bob: Client
) -> None:
    room_id = await pair(alice, bob)
    sent = await alice.send(room_id, "the last one")
    queue = server.app.syncing.to_device
    waiting = queue.waiting

    async def overtaken(*args: Any) -> Any:
        monkeypatch.undo()
        await alice.post(f"/rooms/{room_id}/kick", {"user_id": bob.user_id})
        return await waiting(*args)

    monkeypatch.setattr(queue, "waiting", overtaken)
    shown: list[str] = []
    for _ in range(2):
        rooms = (await bob.sync()).get("rooms", {})
        for section in (*rooms.get("join", {}).values(), *rooms.get("leave", {}).values()):
            shown += [event["event_id"] for event in section["timeline"]["events"]]
    assert room_id in rooms["leave"]
    assert sent in shown


async def test_summary_counts_and_heroes(alice: Client, bob: Client, carol: Client) -> None:
    room_id = await pair(alice, bob)
    await alice.invite(room_id, carol.user_id)
    summary = (await bob.sync(full=True))["rooms"]["join"][room_id]["summary"]
    assert summary == {
        "m.heroes": [alice.user_id, carol.user_id],
        "m.joined_member_count": 2,
        "m.invited_member_count": 1,
    }


async def test_summary_counts_those_whom_the_filter_holds_back(
    alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await pair(alice, bob)
    await carol.join(room_id)
    wanted = {"room": {"timeline": {"types": ["m.room.message"]}}}
    section = (await bob.sync(filter=wanted))["rooms"]["join"][room_id]
    assert section["summary"]["m.joined_member_count"] == 3


@pytest.mark.parametrize("since", ["x", "s1_bad_0_0_0", "s1_" + "z" * 5000, "s2_a_b_c_d", "s1____"])
async def test_foreign_since_token_is_refused(alice: Client, since: str) -> None:
    reply = await alice.call("GET", "/sync", query={"since": since}, expect=400)
    assert reply.errcode == "M_INVALID_PARAM"


async def test_same_since_token_gives_the_same_news_again(alice: Client, bob: Client) -> None:
    room_id = await pair(alice, bob)
    since = bob.next_batch
    event_id = await alice.send(room_id)
    for _ in range(2):
        body = await bob.sync(since=since)
        assert ids(body["rooms"]["join"][room_id]["timeline"]["events"]) == [event_id]


async def test_nothing_new_answers_after_the_timeout_with_a_good_token(alice: Client) -> None:
    await alice.create_room()
    first = await alice.sync()
    body = await alice.sync(timeout=50)
    assert "rooms" not in body
    assert (await alice.sync(since=body["next_batch"]))["next_batch"] == first["next_batch"]


async def test_many_rooms_are_in_memory_only_as_the_budget_allows(server: Server, alice: Client) -> None:
    limits = msgspec.structs.replace(server.config.limits, room_cache=1024 * 1024)
    await server.restart(msgspec.structs.replace(server.config, limits=limits))
    user = server.client()
    user.token = alice.token
    rooms = [await user.create_room(name=str(n)) for n in range(150)]
    held = sum(server.app.rooms.cached(room_id) is not None for room_id in rooms)
    assert held < len(rooms)
    body = await user.sync(full=True)
    assert set(body["rooms"]["join"]) == set(rooms)
    event_id = await user.send(rooms[0])
    body = await user.sync()
    assert ids(body["rooms"]["join"][rooms[0]]["timeline"]["events"]) == [event_id]


async def test_what_readers_have_worked_out_is_kept_only_as_the_budget_allows(
    server: Server, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = msgspec.structs.replace(server.config.limits, room_cache=1024 * 1024)
    await server.restart(msgspec.structs.replace(server.config, limits=limits))
    monkeypatch.setattr(fragments, "MAX_BYTES", 300_000)
    user = server.client()
    user.token = alice.token
    rooms = [await user.create_room() for _ in range(4)]
    for room_id in rooms:
        for number in range(12):
            await user.send(room_id, f"{number} " + "x" * 10_000)
    sizes = []
    for newest in range(1, 13):
        body = await user.sync(full=True, filter=limit(newest))
        for room_id in rooms:
            shown = body["rooms"]["join"][room_id]["timeline"]["events"]
            numbers = [event["content"]["body"].split()[0] for event in shown]
            assert numbers == [str(number) for number in range(12 - newest, 12)]
            room = await server.app.rooms.get(room_id)
            assert room is not None
            sizes.append(room.fragments.size)
    assert 0 < max(sizes) <= 300_000
    assert server.app.rooms.in_memory()[1] < 1024 * 1024 * 17 // 16


@pytest.mark.parametrize(
    ("path", "section"),
    [
        ("/sync?full_state=true", "homeserver.sync.engine:_Answer._section"),
        ("/initialSync", "homeserver.sync.event_stream:EventStream._room"),
    ],
)
async def test_others_have_their_turn_while_many_rooms_are_answered(
    monkeypatch: pytest.MonkeyPatch, alice: Client, path: str, section: str
) -> None:
    """All of them are in memory, so that nothing is waited for."""
    for n in range(60):
        await alice.create_room(name=str(n))
    await alice.get(path)
    turn = 0
    written: Counter[int] = Counter()
    write = resolve_name(section)

    async def noted(*args: Any) -> Any:
        written[turn] += 1
        return await write(*args)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(section.replace(":", "."), noted)
    others = asyncio.create_task(count_turns())
    await alice.get(path)
    await end((others,))
    assert written.total() == 60
    assert max(written.values()) <= 50


async def test_to_load_a_room_does_not_take_a_look_at_all_that_are_in_memory(
    server: Server, monkeypatch: pytest.MonkeyPatch, alice: Client
) -> None:
    for n in range(20):
        await alice.create_room(name=str(n))
    await server.restart()
    rooms = server.app.rooms
    add_up, added_up = rooms.in_memory, 0

    def counted() -> tuple[int, int]:
        nonlocal added_up
        added_up += 1
        return add_up()

    monkeypatch.setattr(rooms, "in_memory", counted)
    user = server.client()
    user.token = alice.token
    assert len((await user.sync(full=True))["rooms"]["join"]) == 20
    assert added_up <= 1


async def test_what_waits_while_its_room_leaves_memory_follows_upon_what_came_meanwhile(
    server: Server, alice: Client, bob: Client
) -> None:
    """HARDENING 47."""
    room_id, other = await pair(alice, bob), await alice.create_room()
    limits = msgspec.structs.replace(server.config.limits, room_cache=1)
    await server.restart(msgspec.structs.replace(server.config, limits=limits))
    user, rooms = server.client(), server.app.rooms
    user.token = alice.token
    held = await rooms.get(room_id)
    assert held is not None
    await rooms.get(other)
    assert rooms.in_memory()[0] == 1
    await user.post(f"/rooms/{room_id}/ban", {"user_id": bob.user_id})
    message = EventTemplate("m.room.message", bob.user_id, {"body": "still here"})
    with pytest.raises(MatrixError, match="M_FORBIDDEN"):
        await post(rooms, server.app.conversations.author, held, lambda head: [message])


async def test_room_takes_no_more_memory_for_state_that_was_replaced(server: Server, alice: Client) -> None:
    room_id = await alice.create_room(name="n")
    room = await server.app.rooms.get(room_id)
    assert room is not None

    def held() -> int:
        return sum(event.size() for event in (*room.timeline, *room.head.state.values()))

    rest = room.size - held()
    for n in range(5):
        topic = await alice.set_state(room_id, "m.room.topic", {"topic": "word " * 100 * n})
    assert room.size == rest + held()
    await alice.redact(room_id, topic)
    await alice.redact(room_id, await alice.send(room_id, "word " * 100))
    assert room.size == rest + held()


async def test_age_is_that_of_the_moment_though_others_were_told_the_same(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await pair(alice, bob)
    await carol.join(room_id)
    for client in (bob, carol):
        await client.sync()
    await alice.send(room_id)

    async def age(client: Client) -> int:
        (event,) = (await client.sync())["rooms"]["join"][room_id]["timeline"]["events"]
        told: int = event["unsigned"]["age"]
        return told

    assert await age(bob) < 60_000
    server.clock.ahead = 3_600_000
    assert await age(carol) >= 3_600_000


async def test_age_of_state_is_that_of_the_moment_though_others_were_told_the_same(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await pair(alice, bob)
    await alice.send(room_id)
    last_only = {"room": {"timeline": {"limit": 1}}}

    async def least_age(client: Client) -> int:
        body = await client.sync(full=True, filter=last_only)
        events = body["rooms"]["join"][room_id]["state"]["events"]
        return min(event["unsigned"]["age"] for event in events)

    assert await least_age(bob) < 60_000
    server.clock.ahead = 3_600_000
    assert await least_age(alice) >= 3_600_000
