"""Rooms that are joined before their members are told (spec: server-server `omit_members`)."""

import asyncio
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

import federation.incoming
import federation.partial_rooms
from homeserver.rooms import rooms
from storage.records.staged_events import STAGED_EVENTS
from tests.client_api.conftest import Client
from tests.federation.host import Host
from tests.federation.receiving import Receiving, away, taken
from tests.federation.rooms import members, state_of, text, texts
from tests.federation.servers import V1, Homeserver, OtherServer, another
from tests.federation_transport.network import Internet
from tests.waiting import until

GUESTS = 20
RULES = ("m.room.power_levels", "m.room.join_rules")


@pytest.fixture
def host(other: OtherServer, alice: Client, receiving: Receiving) -> Host:
    """A room of many; the members are told once the event `host.members_follow` is set."""
    host = Host(other.peer)
    for n in range(GUESTS):
        enter(host, f"@guest{n}:{host.name}")
    host.open_to(alice.user_id)
    host.tell_members_later()
    return host


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(federation.partial_rooms, "FIRST_PAUSE_SECONDS", 0.05)


def enter(host: Host, user_id: str) -> None:
    rests_on = [host.state[type, ""].event_id for type in ("m.room.create", *RULES)]
    host.send("m.room.member", user_id, {"membership": "join"}, sender=user_id, auth_events=rests_on)


async def join(client: Client, host: Host) -> None:
    await client.post(f"/join/{quote(host.room_id)}?via={host.name}")


async def say(host: Host, other: OtherServer, sender: str, body: str) -> None:
    """Say something upon all that the host has, and send it."""
    keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", sender)]
    event = host.send(
        "m.room.message",
        None,
        text(body),
        sender=sender,
        auth_events=[host.state[key].event_id for key in keys],
    )
    await other.send(event.pdu)


def told(host: Host) -> None:
    assert host.members_follow is not None
    host.members_follow.set()


async def test_a_room_is_used_before_its_members_are_known(
    alice: Client, host: Host, other: OtherServer, receiving: Receiving
) -> None:
    await join(alice, host)
    section = (await alice.sync())["rooms"]["join"][host.room_id]
    shown = {(event["type"], event["state_key"]) for event in section["state"]["events"]}
    assert ("m.room.name", "") in shown
    assert ("m.room.member", "@guest1:" + host.name) not in shown
    await alice.send(host.room_id, "I am here")
    await until(lambda: receiving.texts == ["I am here"])
    host.let_in(host.received[0])
    # Upon the join, and not upon what alice said: the state before it is that of then.
    await say(host, other, f"@guest1:{host.name}", "so I see")
    listed = asyncio.create_task(members(alice, host.room_id))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(listed), 0.3)
    assert await texts(alice, host.room_id) == ["I am here"]
    told(host)
    everybody = await listed
    assert len(everybody) == GUESTS + 2
    assert set(everybody.values()) == {"join"}
    await until(lambda: said(alice, host, ["I am here", "so I see"]))
    section = (await alice.sync())["rooms"]["join"][host.room_id]
    late = {event["state_key"] for event in section["state"]["events"]}
    assert late == everybody.keys() - {alice.user_id}
    assert section["summary"]["m.joined_member_count"] == GUESTS + 2


async def said(client: Client, host: Host, expected: list[str]) -> bool:
    return await texts(client, host.room_id) == expected


async def test_who_loads_members_lazily_is_told_of_no_crowd(
    alice: Client, host: Host, other: OtherServer
) -> None:
    lazy = {"room": {"state": {"lazy_load_members": True}}}
    await join(alice, host)
    await alice.sync(filter=lazy)
    told(host)
    await members(alice, host.room_id)
    host.let_in(host.received[0])
    await say(host, other, f"@guest1:{host.name}", "hello")
    await until(lambda: said(alice, host, ["hello"]))
    section = (await alice.sync(filter=lazy))["rooms"]["join"][host.room_id]
    assert [event["state_key"] for event in section["state"]["events"]] == [f"@guest1:{host.name}"]
    assert section["summary"]["m.joined_member_count"] == GUESTS + 2


async def test_a_server_that_was_away_gets_what_was_said_before_its_members_were_known(
    alice: Client, host: Host, other: OtherServer, receiving: Receiving
) -> None:
    await join(alice, host)
    receiving.answer = away
    await alice.send(host.room_id, "missed")
    await asyncio.sleep(0.2)
    receiving.answer = taken
    await other.show_life()
    await until(lambda: receiving.texts == ["missed"])


async def test_a_restart_goes_on_with_it(server: Homeserver, alice: Client, host: Host) -> None:
    await join(alice, host)
    await alice.send(host.room_id, "before")
    await server.restart()
    alice._base = server.base
    told(host)
    everybody = await members(alice, host.room_id)
    assert len(everybody) == GUESTS + 2
    state = await state_of(alice, host.room_id)
    await server.restart()
    alice._base = server.base
    assert await state_of(alice, host.room_id) == state
    assert await texts(alice, host.room_id) == ["before"]


async def test_acts_on_members_wait_for_them(
    alice: Client, bob: Client, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "WHOLE_SECONDS", 0.2)
    banned = host.send("m.room.member", bob.user_id, {"membership": "ban"})
    await join(alice, host)
    path = f"/rooms/{quote(host.room_id)}"
    for method, what, content in (
        ("POST", "/invite", {"user_id": "@new:" + host.name}),
        ("POST", "/kick", {"user_id": "@guest1:" + host.name}),
        ("GET", "/joined_members", None),
        ("GET", "/members", None),
        ("GET", f"/state/m.room.member/{quote(banned.state_key or '')}", None),
    ):
        assert (await alice.call(method, path + what, content, expect=503)).errcode, what
    await bob.call("POST", f"/join/{quote(host.room_id)}", {}, expect=503)
    told(host)
    await until(lambda: bans(alice, path))
    await bob.call("POST", f"/join/{quote(host.room_id)}", {}, expect=403)


async def test_who_is_banned_is_so_in_the_room_that_replaces_it(
    alice: Client, bob: Client, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bans are known only with the members."""
    monkeypatch.setattr(rooms, "WHOLE_SECONDS", 0.2)
    host.send("m.room.power_levels", "", {"users": {host.creator: 100, alice.user_id: 100}})
    host.send("m.room.member", bob.user_id, {"membership": "ban"})
    await join(alice, host)
    path = f"/rooms/{quote(host.room_id)}"
    await alice.call("POST", f"{path}/upgrade", {"new_version": "11"}, expect=503)
    told(host)
    await until(lambda: bans(alice, path))
    replacement = (await alice.post(f"{path}/upgrade", {"new_version": "11"}))["replacement_room"]
    await bob.call("POST", f"/join/{quote(replacement)}", {}, expect=403)


async def bans(client: Client, path: str) -> bool:
    reply = await client.call("GET", path + "/members?membership=ban", expect=None)
    return reply.status == 200 and len(reply.body["chunk"]) == 1


async def test_others_are_not_told_what_is_not_known(alice: Client, host: Host, other: OtherServer) -> None:
    await join(alice, host)
    visitor = f"@visitor:{other.name}"
    room = quote(host.room_id)
    path = f"{V1}/make_join/{room}/{quote(visitor)}"
    reply = await other.call("GET", path, query={"ver": "11"}, expect=404)
    assert reply.errcode == "M_NOT_FOUND"
    asked = {"event_id": host.events[-1].event_id}
    await other.call("GET", f"{V1}/state_ids/{room}", query=asked, expect=404)


async def test_a_state_that_does_not_allow_the_join_is_not_believed(alice: Client, host: Host) -> None:
    def banned(answer: Any) -> None:
        answer["pdu_ids"].append(ban.event_id)

    await join(alice, host)
    ban = host.event("m.room.member", alice.user_id, {"membership": "ban"})
    host.events.append(ban)
    host.lies["state_ids"] = banned
    told(host)
    await asyncio.sleep(0.3)
    host.events.remove(ban)
    host.lies.clear()
    assert (await members(alice, host.room_id))[alice.user_id] == "join"


async def test_whoever_of_the_room_can_tell_is_asked_in_the_end(
    internet: Internet, server: Homeserver, http: aiohttp.ClientSession, alice: Client, host: Host
) -> None:
    """The server that let the user in is gone for good, and so are most of those in the room."""
    third = await another(internet, server, http)

    def named(answer: Any) -> None:
        gone = [f"gone{number}.test" for number in range(2 * federation.partial_rooms.ASKED)]
        answer["servers_in_room"] = [host.name, *gone, third.name]

    host.lies["send_join"] = named
    for asked in ("state", "state_ids"):
        path = f"{V1}/{asked}/{host.room_id}"
        third.peer.site.pages[path] = host.peer.site.pages.pop(path)
    told(host)
    await join(alice, host)
    assert len(await members(alice, host.room_id)) == GUESTS + 2


async def test_who_leaves_meanwhile_and_comes_back_is_told_all(alice: Client, host: Host) -> None:
    await join(alice, host)
    await alice.leave(host.room_id)
    await join(alice, host)
    everybody = await members(alice, host.room_id)
    assert len(everybody) == GUESTS + 2
    assert everybody[alice.user_id] == "join"


async def test_what_was_said_in_a_room_that_was_left_meanwhile_waits_no_longer(
    server: Homeserver, alice: Client, host: Host, other: OtherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody will know who may say it; an administrator would be told of events that wait for ever."""
    monkeypatch.setattr(federation.incoming, "FIRST_PAUSE_SECONDS", 0.05)
    incoming = server.app.federation.incoming
    await join(alice, host)
    host.let_in(host.received[0])
    await say(host, other, f"@guest1:{host.name}", "hello")
    assert incoming.waiting()[0] == 1
    await alice.leave(host.room_id)
    await until(lambda: incoming.waiting()[0] == 0)
    assert await server.app.store.collection(STAGED_EVENTS).find("key", (host.room_id,)) == []
