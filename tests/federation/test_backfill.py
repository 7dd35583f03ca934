"""What was in a room before this server came in, got from those that were there (HARDENING 4, 22, 35)."""

import asyncio
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import pytest
from aiohttp import web

import federation.backfill
from homeserver.graph.past import Link, linked
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import SigningKey
from tests.client_api.conftest import Client
from tests.federation.host import Host
from tests.federation.rooms import members, state_of
from tests.federation.servers import V1, Homeserver, OtherServer
from tests.federation.test_remote_rooms import join
from tests.waiting import until


@pytest.fixture
async def dora(second: Homeserver) -> Client:
    return await second.register("dora")


async def pages(client: Client, room_id: str, *, limit: int = 100, **query: Any) -> list[Any]:
    """All that a client reads backwards from the newest event; tokens move until there are none."""
    found: list[Any] = []
    tokens: set[str] = set()
    start: str | None = None
    while True:
        asked = {"dir": "b", "limit": limit, **({"from": start} if start else {}), **query}
        page = await client.get(f"/rooms/{quote(room_id)}/messages", query=asked)
        found += page["chunk"]
        start = page.get("end")
        if start is None:
            return found
        assert start not in tokens
        tokens.add(start)


def ids(events: list[Any]) -> list[str]:
    return [event["event_id"] for event in events]


async def without_news(client: Client) -> None:
    """See that the client has nothing new."""
    news = await client.sync()
    assert not news.get("rooms", {}).get("join"), news


@pytest.mark.parametrize("version", list(ROOM_VERSIONS))
async def test_history_from_before_the_join_is_read_to_the_create_event(
    server: Homeserver, alice: Client, dora: Client, version: str
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version=version, name="There")
    for n in range(12):
        await alice.send(room_id, f"message {n}")
        await alice.set_state(room_id, "m.room.topic", {"topic": f"topic {n}"})
    await join(dora, room_id, server)
    assert len(await members(dora, room_id)) == 2
    await dora.sync(full=True)
    own, there = await pages(dora, room_id, limit=10), await pages(alice, room_id)
    assert ids(own) == ids(there)
    assert own[-1]["type"] == "m.room.create"
    assert [event.get("unsigned", {}).get("prev_content") for event in own] == [
        event.get("unsigned", {}).get("prev_content") for event in there
    ]
    await without_news(dora)
    assert await state_of(dora, room_id) == await state_of(alice, room_id)


async def test_a_long_history_comes_in_batches_and_stays(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    for n in range(230):
        await alice.send(room_id, f"message {n}")
    await join(dora, room_id, server)
    there = ids(await pages(alice, room_id))
    assert ids(await pages(dora, room_id, limit=50)) == there
    await server.stop()
    await second.restart()
    dora._base = second.base
    assert ids(await pages(dora, room_id, limit=70)) == there
    forwards = await dora.get(f"/rooms/{quote(room_id)}/messages", query={"dir": "f", "limit": 500})
    assert ids(forwards["chunk"]) == there[::-1]
    state = await state_of(dora, room_id)
    await dora.send(room_id, "on it goes")
    assert await state_of(dora, room_id) == state
    await server.start()


class Archive:
    """What a host tells of the past of its room."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.asked = 0
        self.away = False
        self.lie: Callable[[list[Any]], list[Any]] = lambda pdus: pdus
        site, room_id = host.peer.site, host.room_id
        site.pages[f"{V1}/backfill/{room_id}"] = self._backfill
        site.pages[f"{V1}/state_ids/{room_id}"] = self._state_ids
        site.below[f"{V1}/event/"] = self._event
        site.below[f"{V1}/event_auth/"] = self._event_auth
        site.below[f"{V1}/send/"] = self._take

    @property
    def _by_id(self) -> dict[str, Event]:
        return {event.event_id: event for event in self.host.events}

    async def _backfill(self, request: web.BaseRequest) -> web.Response:
        self.asked += 1
        if self.away:
            return web.json_response({"errcode": "M_UNKNOWN", "error": "?"}, status=500)
        order = [event.event_id for event in self.host.events]
        newest = max((order.index(v) for v in request.query.getall("v") if v in order), default=-1)
        oldest = max(0, newest + 1 - int(request.query["limit"]))
        pdus = [event.pdu for event in self.host.events[oldest : newest + 1]]
        return web.json_response({"origin": self.host.name, "pdus": self.lie(pdus[::-1])})

    async def _state_ids(self, request: web.BaseRequest) -> web.Response:
        state: dict[tuple[str, str], str] = {}
        for event in self.host.events:
            if event.event_id == request.query["event_id"]:
                break
            if event.is_state:
                state[event.state_tuple] = event.event_id
        return web.json_response({"pdu_ids": list(state.values()), "auth_chain_ids": []})

    async def _event(self, request: web.BaseRequest) -> web.Response:
        event = self._by_id.get(unquote(request.path.rpartition("/")[2]))
        return web.json_response({"pdus": [event.pdu] if event is not None else []})

    async def _take(self, request: web.BaseRequest) -> web.Response:
        return web.json_response({"pdus": {}})

    async def _event_auth(self, request: web.BaseRequest) -> web.Response:
        return web.json_response({"auth_chain": [event.pdu for event in self.host.events if event.is_state]})


@pytest.fixture
def host(other: OtherServer, alice: Client) -> Host:
    host = Host(other.peer)
    host.open_to(alice.user_id)
    return host


def say(host: Host, body: str, **changes: Any) -> Event:
    return host.send("m.room.message", None, {"msgtype": "m.text", "body": body}, **changes)


async def enter(client: Client, host: Host) -> None:
    """Join, without being told the past along with the join."""
    host.lies["send_join"] = lambda answer: answer.update(
        auth_chain=[event.pdu for event in host.state.values()]
    )
    await client.post(f"/join/{quote(host.room_id)}?via={host.name}")


def bodies(events: list[Any]) -> list[str]:
    return [event["content"]["body"] for event in events if event["type"] == "m.room.message"]


@pytest.mark.parametrize("batch", [3, 100])
async def test_who_may_see_the_past_is_decided_by_the_state_at_the_time(
    host: Host, alice: Client, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(federation.backfill, "BATCH", batch)
    archive = Archive(host)
    secret: list[str] = []
    for number, setting in enumerate(("world_readable", "joined", "shared", "invited", "shared")):
        host.send("m.room.history_visibility", "", {"history_visibility": setting})
        for n in range(5):
            event = say(host, f"{setting} {number} {n}")
            if setting in ("joined", "invited"):
                secret.append(event.event_id)
    await enter(alice, host)
    first = bodies(await pages(alice, host.room_id, limit=2))
    again = bodies(await pages(alice, host.room_id))
    assert first == again
    assert {body.partition(" ")[0] for body in first} == {"world_readable", "shared"}
    assert len(first) == 15
    for event_id in secret:
        path = f"/rooms/{quote(host.room_id)}"
        await alice.call("GET", f"{path}/event/{quote(event_id)}", expect=404)
        await alice.call("GET", f"{path}/context/{quote(event_id)}", expect=404)
    around = await alice.get(
        f"/rooms/{quote(host.room_id)}/context/{quote(host.events[-1].event_id)}", query={"limit": 30}
    )
    assert not {event["event_id"] for event in around["events_before"]} & set(secret)
    assert archive.asked == (len(host.events) + batch - 1) // batch


async def test_the_past_is_no_news(host: Host, alice: Client) -> None:
    Archive(host)
    for n in range(5):
        say(host, f"{alice.user_id} {n}")
    await enter(alice, host)
    await alice.sync(full=True)
    waiting = asyncio.create_task(alice.sync(timeout=600))
    await asyncio.sleep(0.1)
    assert len(bodies(await pages(alice, host.room_id))) == 5
    assert not (await waiting).get("rooms", {}).get("join")
    section = (await alice.sync(full=True))["rooms"]["join"][host.room_id]
    assert section["unread_notifications"] == {"notification_count": 0, "highlight_count": 0}
    assert bodies(section["timeline"]["events"]) == []
    assert (await alice.get("/notifications"))["notifications"] == []


async def test_state_of_the_past_is_not_that_of_now(server: Homeserver, host: Host, alice: Client) -> None:
    Archive(host)
    host.send("m.room.topic", "", {"topic": "before"})
    host.send("m.room.avatar", "", {"url": "mxc://a/b"})
    host.send("m.room.topic", "", {"topic": "after"})
    del host.state["m.room.avatar", ""]
    await enter(alice, host)
    before = await state_of(alice, host.room_id)
    found = await pages(alice, host.room_id)
    assert [event["content"]["topic"] for event in found if event["type"] == "m.room.topic"] == [
        "after",
        "before",
    ]
    assert await state_of(alice, host.room_id) == before
    await server.restart()
    assert await state_of(alice, host.room_id) == before
    assert ("m.room.avatar", "") not in before


async def test_long_runs_of_rejected_events_are_passed(host: Host, alice: Client) -> None:
    archive = Archive(host)
    say(host, "before")
    for n in range(350):
        say(host, f"rejected {n}", auth_events=[host.events[0].event_id])
    say(host, "after")
    await enter(alice, host)
    found = await pages(alice, host.room_id, limit=5)
    assert bodies(found) == ["after", "before"]
    assert found[-1]["type"] == "m.room.create"
    assert archive.asked == 4


async def test_what_nobody_can_vouch_for_does_not_end_the_past(
    host: Host, alice: Client, other: OtherServer
) -> None:
    Archive(host)
    say(host, "before")
    say(host, "forged", key=SigningKey.from_seed("a_1", b"stranger".ljust(32)))
    say(host, "of a server that is gone", sender="@gone:127.1.255.254", signer="127.1.255.254")
    say(host, "after")
    await enter(alice, host)
    assert bodies(await pages(alice, host.room_id)) == ["after", "before"]


async def test_a_branch_that_is_left_out_comes_with_the_rooms_beginning(host: Host, alice: Client) -> None:
    """Whom one server does not tell of it, that one asks again, though it has the create event by then."""
    archive = Archive(host)
    first = say(host, "first")
    branch = say(host, "branch")
    trunk = say(host, "trunk", prev_events=[first.event_id])
    say(host, "both", prev_events=[branch.event_id, trunk.event_id])
    archive.lie = lambda pdus: pdus if archive.asked > 1 else [pdu for pdu in pdus if pdu != branch.pdu]
    await enter(alice, host)
    found = await pages(alice, host.room_id)
    assert sorted(bodies(found)) == ["both", "branch", "first", "trunk"]
    assert "m.room.create" in [event["type"] for event in found]
    assert archive.asked == 2


async def test_a_branch_that_nobody_has_comes_after_the_rooms_beginning_once_somebody_has_it(
    host: Host, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federation.backfill, "VAIN_MS", 0)
    archive = Archive(host)
    first = say(host, "first")
    branch = say(host, "branch")
    trunk = say(host, "trunk", prev_events=[first.event_id])
    say(host, "both", prev_events=[branch.event_id, trunk.event_id])
    archive.lie = lambda pdus: [pdu for pdu in pdus if pdu != branch.pdu]
    await enter(alice, host)
    found = await pages(alice, host.room_id)
    assert found[-1]["type"] == "m.room.create"
    assert bodies(found) == ["both", "trunk", "first"]
    archive.lie = lambda pdus: pdus
    assert sorted(bodies(await pages(alice, host.room_id))) == ["both", "branch", "first", "trunk"]
    asked = archive.asked
    assert len(bodies(await pages(alice, host.room_id))) == 4
    assert archive.asked == asked


async def test_what_lies_behind_a_soft_failed_event_is_history_of_what_follows_upon_it(
    server: Homeserver, host: Host, other: OtherServer, alice: Client
) -> None:
    archive = Archive(host)
    bob = f"@bob:{host.name}"
    host.send("m.room.member", bob, {"membership": "join"}, sender=bob)
    await enter(alice, host)
    host.let_in(host.received[0])
    entered = host.events[-1].event_id
    hidden = say(host, "hidden")
    late = say(host, "late", sender=bob)
    ban = host.send("m.room.member", bob, {"membership": "ban"}, prev_events=[entered])
    after = say(host, "after", prev_events=[ban.event_id, late.event_id])
    between = web.json_response({"events": [late.pdu]})
    host.peer.site.pages[f"{V1}/get_missing_events/{host.room_id}"] = between
    archive.lie = lambda pdus: [pdu for pdu in pdus if pdu != hidden.pdu]
    for event in (ban, after):
        await other.send(event.pdu)

    async def said() -> list[str]:
        return bodies(await pages(alice, host.room_id))

    assert await until(said) == ["after"]
    archive.lie = lambda pdus: pdus
    await server.restart()
    assert await said() == ["after", "hidden"]


def foreign(host: Host) -> Event:
    return host.event("m.room.message", None, {"body": "foreign"}, room_id="!another:example.org")


LIES: dict[str, Callable[[Host, list[Any]], list[Any]]] = {
    "events that nothing follows upon": lambda host, pdus: (
        [host.event("m.room.message", None, {"body": f"unlinked {n}"}).pdu for n in range(5)] + pdus
    ),
    "events of another room": lambda host, pdus: [foreign(host).pdu, *pdus],
    "too many": lambda host, pdus: pdus + pdus * 300,
    "junk": lambda host, pdus: [None, 1, "x", {}, [], {"event_id": {}}, *pdus],
    "changed content": lambda host, pdus: [
        {**pdu, "content": {"body": "changed"}} if pdu["type"] == "m.room.message" else pdu for pdu in pdus
    ],
    "another beginning": lambda host, pdus: [
        *pdus,
        host.event("m.room.create", "", {"room_version": "11"}, prev_events=[], auth_events=[]).pdu,
    ],
    "the wrong way round": lambda host, pdus: pdus[::-1],
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_of_lies_only_what_hangs_together_counts(
    host: Host, alice: Client, lie: Callable[[Host, list[Any]], list[Any]]
) -> None:
    archive = Archive(host)
    for n in range(5):
        say(host, f"true {n}")
    archive.lie = lambda pdus: lie(host, pdus)
    await enter(alice, host)
    found = await pages(alice, host.room_id)
    assert [body for body in bodies([e for e in found if e["content"]]) if not body.startswith("true")] == []
    assert ids(found)[1:] == [event.event_id for event in reversed(host.events)]


async def test_a_server_that_does_not_answer_is_not_asked_all_the_time(host: Host, alice: Client) -> None:
    archive = Archive(host)
    archive.away = True
    say(host, "before")
    await enter(alice, host)
    for _ in range(3):
        found = await pages(alice, host.room_id)
        assert [event["state_key"] for event in found] == [alice.user_id]
    assert archive.asked == 1


async def test_what_was_redacted_stays_so(host: Host, alice: Client) -> None:
    Archive(host)
    event = say(host, "regretted")
    host.send("m.room.redaction", None, {"redacts": event.event_id})
    say(host, "kept")
    await enter(alice, host)
    await pages(alice, host.room_id)
    while bodies_left := [
        e["content"] for e in await pages(alice, host.room_id) if e["event_id"] == event.event_id
    ]:
        if bodies_left == [{}]:
            break
        await asyncio.sleep(0.02)
    assert bodies_left == [{}]


async def test_a_time_before_the_join_is_found(host: Host, alice: Client) -> None:
    Archive(host)
    for n in range(250):
        say(host, f"{n}")
    await enter(alice, host)
    wanted = host.events[20]
    for direction, ts in (("b", wanted.origin_server_ts), ("f", wanted.origin_server_ts)):
        found = await alice.get(
            f"/_matrix/client/v1/rooms/{quote(host.room_id)}/timestamp_to_event",
            query={"ts": ts, "dir": direction},
        )
        assert found == {"event_id": wanted.event_id, "origin_server_ts": wanted.origin_server_ts}
        path = f"/rooms/{quote(host.room_id)}/context/{quote(wanted.event_id)}"
        around = await alice.get(path, query={"limit": 4})
        assert bodies(around["events_before"]) == ["14", "13"]
        assert bodies(around["events_after"]) == ["16", "17"]
        assert {event["type"] for event in around["state"]} >= {"m.room.create", "m.room.name"}


def test_links_are_followed_each_after_what_follows_upon_it() -> None:
    rng = random.Random(5)
    for _ in range(200):
        size = rng.randint(1, 30)
        links = {
            str(n): Link([str(rng.randint(0, n + 2)) for _ in range(rng.randint(0, 3))], rng.randint(0, 5))
            for n in range(size)
        }
        edge = [str(rng.randint(0, size)) for _ in range(3)]
        ordered = linked(edge, links)
        assert len(set(ordered)) == len(ordered)
        place = {event_id: n for n, event_id in enumerate(ordered)}
        for event_id in ordered:
            for previous in links[event_id].previous:
                assert place.get(previous, size) > place[event_id]
            assert event_id in edge or any(event_id in links[other].previous for other in ordered)
