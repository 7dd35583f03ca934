"""Redactions take out what they may, all of it, and nothing else (HARDENING 17, 18)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from client_api.http import Route
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.rooms import room as rooms_in_memory
from storage.errors import StoreUnavailable
from storage.log import Entry
from tests.client_api.conftest import Client, Server
from tests.client_api.hostile import PARAMETER, specified

MARK = "unspeakable"


async def redact(client: Client, room_id: str, event_id: str, status: int, txn: str = "1") -> Any:
    path = f"/rooms/{quote(room_id)}/redact/{quote(event_id, safe='')}/{txn}"
    return (await client.call("PUT", path, {}, expect=status)).body


async def event_of(client: Client, room_id: str, type: str) -> Any:
    return await client.get(f"/rooms/{quote(room_id)}/state/{type}", query={"format": "event"})


def held_pruning(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """Keeps what is redacted in the log as it was, until what is given back is awaited."""

    async def stuck(shard: int, entry: Entry) -> None:
        raise StoreUnavailable("not now")

    (consumer,) = (each for each in server.app.ground.consumers if each.name == "redactions")
    handle = consumer._handle
    monkeypatch.setattr(consumer, "_handle", stuck)

    async def prune() -> None:
        monkeypatch.setattr(consumer, "_handle", handle)
        async with asyncio.timeout(20):
            while consumer.lag()[0]:
                await asyncio.sleep(0.02)

    return prune


def in_store(data_dir: Path, text: str) -> list[Path]:
    return [path for path in data_dir.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def path_of(route: Route, ids: Mapping[str, str]) -> str:
    return PARAMETER.sub(lambda name: quote(ids.get(name[1], "none"), safe=""), route.path)


async def test_what_was_redacted_is_shown_by_no_route(server: Server, alice: Client, bob: Client) -> None:
    """HARDENING 18: whatever named, answered, summed up or searched it."""
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    before = (await bob.sync(full=True))["next_batch"]
    root = await alice.send(room_id, MARK)
    edit = {"rel_type": "m.replace", "event_id": root}
    inner = {"msgtype": "m.text", "body": MARK}
    edited = await alice.send(
        room_id, {"msgtype": "m.text", "body": "* " + MARK, "m.new_content": inner, "m.relates_to": edit}
    )
    thread = {"rel_type": "m.thread", "event_id": root}
    threaded = await alice.send(room_id, {"msgtype": "m.text", "body": MARK, "m.relates_to": thread})
    like = {"rel_type": "m.annotation", "event_id": root, "key": MARK}
    liked = await alice.send(room_id, {"m.relates_to": like}, "m.reaction")
    topic = await alice.set_state(room_id, "m.room.topic", {"topic": MARK})
    last = await alice.set_state(room_id, "m.room.topic", {"topic": "harmless"})
    own = await alice.set_state(room_id, "org.example", {"text": MARK}, "key")

    async def looks() -> list[str]:
        """The routes on which bob comes across the mark."""
        for consumer in server.app.ground.consumers:
            await consumer.settled(0)
        found = []
        for event_id in (root, edited, threaded, liked, topic, last, own):
            ids = {
                "room_id": room_id,
                "room_id_or_alias": room_id,
                "event_id": event_id,
                "event_type": "org.example",
                "state_key": "key",
                "rel_type": "m.thread",
            }
            query = {"since": before, "from": before, "dir": "f", "limit": 100, "ts": 0}
            for module in server.app.modules:
                for route, _ in module.routes():
                    if route.method != "GET":
                        continue
                    path = path_of(route, ids)
                    known = {name: query[name] for name in specified(route).query if name in query}
                    for asked in ({}, known):
                        reply = await bob.call(
                            "GET", f"{path}?{urlencode({**asked, 'timeout': 0})}", expect=None
                        )
                        if MARK in str(reply.body):
                            found.append(route.path)
        criteria = {"search_categories": {"room_events": {"search_term": MARK}}}
        if (await bob.post("/search", criteria))["search_categories"]["room_events"]["results"]:
            found.append("/search")
        sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
        wanted = {"timeline_limit": 50, "required_state": [["*", "*"]]}
        if MARK in str(await bob.post(sliding, {"room_subscriptions": {room_id: wanted}})):
            found.append(sliding)
        return found

    assert len(set(await looks())) >= 12
    for number, event_id in enumerate((edited, threaded, liked, topic, own, root)):
        await redact(alice, room_id, event_id, 200, txn=str(number))
    assert await looks() == []
    await server.restart()
    assert await looks() == []
    await server.stop()
    assert in_store(server.data_dir, MARK) == []


async def test_state_set_while_its_predecessor_is_redacted_shows_nothing_of_that(alice: Client) -> None:
    """Whichever of them is first, and when both are in one batch behind what is being written."""
    room_id = await alice.create_room()
    for number in range(6):
        before = await alice.set_state(room_id, "m.room.topic", {"topic": MARK})
        redaction = redact(alice, room_id, before, 200, txn=str(number))
        change = alice.set_state(room_id, "m.room.topic", {"topic": f"harmless {number}"})
        both = (redaction, change) if number % 2 else (change, redaction)
        await asyncio.gather(alice.send(room_id), alice.send(room_id), *both)
        after = await event_of(alice, room_id, "m.room.topic")
        assert after["content"] == {"topic": f"harmless {number}"}
        assert after["unsigned"]["replaces_state"] == before
        assert after["unsigned"]["prev_content"] == {}
    assert MARK not in str(await alice.sync(full=True))


async def test_first_redaction_of_an_event_is_the_one_that_is_told(server: Server, alice: Client) -> None:
    room_id = await alice.create_room()
    event_id = await alice.send(room_id, MARK)
    first = (await redact(alice, room_id, event_id, 200, "1"))["event_id"]
    await redact(alice, room_id, event_id, 200, "2")
    for _ in range(2):
        shown = await alice.get(f"/rooms/{quote(room_id)}/event/{quote(event_id, safe='')}")
        assert shown["unsigned"]["redacted_because"]["event_id"] == first
        await server.restart()


async def test_server_acl_is_redacted_by_nobody(alice: Client) -> None:
    room_id = await alice.create_room()
    event_id = await alice.set_state(room_id, "m.room.server_acl", {"allow": ["*"]})
    await redact(alice, room_id, event_id, 403)
    assert (await event_of(alice, room_id, "m.room.server_acl"))["content"] == {"allow": ["*"]}


async def test_content_that_looks_like_unsigned_is_left_alone(alice: Client, bob: Client) -> None:
    """What is written into an event by the server is put where it belongs."""
    room_id = await alice.create_room(preset="public_chat")
    content = {"a": 1, "unsigned": {"membership": "join", "age": 5}}
    event_id = await alice.send(room_id, content, "org.example")
    await bob.join(room_id)
    shown = (await bob.get(f"/rooms/{quote(room_id)}/messages", query={"dir": "b", "limit": 5}))["chunk"]
    found = next(event for event in shown if event["event_id"] == event_id)
    assert found["content"] == content
    assert found["unsigned"]["membership"] == "leave"


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_create_event_is_redacted_by_nobody(server: Server, alice: Client, version: str) -> None:
    room_id = await alice.create_room(room_version=version)
    create = await event_of(alice, room_id, "m.room.create")
    await redact(alice, room_id, create["event_id"], 403)
    after = await event_of(alice, room_id, "m.room.create")
    assert after["content"] == create["content"]
    assert "redacted_because" not in after.get("unsigned", {})


async def test_redactions_of_redactions_end(alice: Client) -> None:
    room_id = await alice.create_room()
    event_id = await alice.send(room_id, MARK)
    first = (await redact(alice, room_id, event_id, 200, "1"))["event_id"]
    second = (await redact(alice, room_id, first, 200, "2"))["event_id"]
    third = (await redact(alice, room_id, second, 200, "3"))["event_id"]
    for known in (event_id, first, second, third):
        shown = await alice.get(f"/rooms/{quote(room_id)}/event/{quote(known, safe='')}")
        assert MARK not in str(shown)
    assert await alice.get(f"/rooms/{quote(room_id)}/messages", query={"dir": "b", "limit": 50})
    assert room_id in (await alice.sync(full=True))["rooms"]["join"]


@pytest.mark.parametrize("version", ["12", "11", "10", "2", "1"])
@pytest.mark.parametrize("way", ["send", "state", "both places"])
async def test_redaction_written_otherwise_has_no_more_power(
    server: Server, alice: Client, bob: Client, version: str, way: str
) -> None:
    """As any event, or as state: without the power nothing is taken out, in memory or in the store."""
    room_id = await alice.create_room(
        preset="public_chat",
        room_version=version,
        power_level_content_override={"state_default": 0, "redact": 100},
    )
    await bob.join(room_id)
    event_id = await alice.send(room_id, "kept")
    room = f"/rooms/{quote(room_id)}"
    if way == "state":
        # Versions 1 and 2 have a rule of their own for events of this type.
        body = {"redacts": event_id}
        await bob.call("PUT", f"{room}/state/m.room.redaction/x", body, expect=None)
    elif way == "send":
        await bob.call("PUT", f"{room}/send/m.room.redaction/1", {"redacts": event_id}, expect=403)
    else:
        mine = await bob.send(room_id, "mine")
        await bob.put(f"{room}/redact/{quote(mine, safe='')}/1", {"redacts": event_id})
    for _ in range(2):
        shown = await alice.get(f"{room}/event/{quote(event_id, safe='')}")
        assert shown["content"]["body"] == "kept"
        await server.restart()


async def test_event_of_another_room_is_not_redacted_from_here(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room()
    event_id = await alice.send(room_id, "kept")
    own = await bob.create_room()
    await redact(bob, own, event_id, 404)
    await bob.call("PUT", f"/rooms/{quote(own)}/send/m.room.redaction/2", {"redacts": event_id}, expect=404)
    shown = await alice.get(f"/rooms/{quote(room_id)}/event/{quote(event_id, safe='')}")
    assert shown["content"]["body"] == "kept"


@pytest.mark.parametrize("version", ["12", "6", "2", "1"])
async def test_redacted_member_event_leaves_the_membership(alice: Client, bob: Client, version: str) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version=version)
    await bob.join(room_id)
    member = await alice.get(
        f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}", query={"format": "event"}
    )
    await redact(alice, room_id, member["event_id"], 200)
    assert bob.user_id in (await alice.get(f"/rooms/{quote(room_id)}/joined_members"))["joined"]
    await bob.send(room_id, "still here")


async def test_hardening_18_what_is_read_before_the_log_is_pruned_shows_nothing_of_what_was_redacted(
    server: Server, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does what was kept of that reading: clients ask for a thread anew when a reply is redacted."""
    monkeypatch.setattr(rooms_in_memory, "TIMELINE_KEPT", 5)
    room_id = await alice.create_room()
    root = await alice.send(room_id, "root")
    thread = {"rel_type": "m.thread", "event_id": root}
    reply = await alice.send(room_id, {"msgtype": "m.text", "body": "regretted", "m.relates_to": thread})
    for n in range(20):
        await alice.send(room_id, f"later {n}")
    prune = held_pruning(server, monkeypatch)
    await alice.redact(room_id, reply)
    room = f"/rooms/{quote(room_id)}"
    for pruned in (False, True):
        if pruned:
            await prune()
        shown = [
            await alice.get(f"{room}/event/{quote(root)}"),
            await alice.get(f"{room}/event/{quote(reply)}"),
            await alice.get(f"/_matrix/client/v1{room}/relations/{quote(root)}"),
            await alice.get(f"{room}/messages", query={"dir": "b", "limit": 50}),
        ]
        assert "regretted" not in str(shown)
        assert "m.thread" not in shown[0].get("unsigned", {}).get("m.relations", {})


async def test_hardening_18_room_loaded_before_the_log_is_pruned_shows_nothing_of_what_was_redacted(
    server: Server, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await alice.create_room()
    sent = [
        await alice.send(room_id, "regretted"),
        await alice.set_state(room_id, "m.room.topic", {"topic": "regretted"}),
    ]
    prune = held_pruning(server, monkeypatch)
    for event_id in sent:
        await alice.redact(room_id, event_id)
    server.app.rooms.drop(room_id)
    room = f"/rooms/{quote(room_id)}"
    for pruned in (False, True):
        if pruned:
            await prune()
        shown = [await alice.get(f"{room}/state"), await alice.sync(full=True)]
        assert "regretted" not in str(shown)
