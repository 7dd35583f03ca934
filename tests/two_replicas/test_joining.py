"""Users come into a room of another server by way of two replicas at once."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web
from msgspec.structs import replace

import client_api.replicas
import federation.federation
from federation.incoming import Results
from homeserver.clock import system_clock
from homeserver.config import Config
from homeserver.config.options import Egress, Federation
from homeserver.graph.outliers import Outliers
from homeserver.graph.receiving import Outcome
from homeserver.protocol.events import Event
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import event_id_of
from homeserver.rooms.room import Room
from storage.records.side_events import SIDE_EVENTS
from tests.client_api.conftest import Client
from tests.federation.host import Host
from tests.federation.newcomer import signed
from tests.federation.servers import PORT, V1
from tests.federation_transport.network import CA, LOOPBACK, Internet, Time, new_address
from tests.federation_transport.peers import Peer
from tests.two_replicas.conftest import Replica, Replicas
from tests.waiting import until

Part = tuple[federation.federation.Federation, Room]


@pytest.fixture
def config(config: Config, tmp_path: Path) -> Config:
    authority = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(authority)
    egress = Egress(allow_networks=LOOPBACK, ca=str(authority))
    return replace(config, egress=egress, federation=Federation())


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    internet = Internet()
    await internet.start()
    name = new_address()
    time = Time()
    time.now = system_clock()
    peer = Peer(name, await internet.site(name, port=PORT, address=name), time)
    yield Host(peer)
    await internet.close()


async def test_a_join_that_takes_long_at_the_owner_is_made_once(
    replicas: Replicas, host: Host, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_api.replicas, "ANSWER_SECONDS", 0.3)
    host.open_to(alice.user_id)
    asked = 0
    (path,) = (path for path in host.peer.site.pages if path.startswith(f"{V1}/make_join/"))
    make = host.peer.site.pages[path]

    async def slowly(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        await asyncio.sleep(1.0)
        answer: web.StreamResponse = await make(request)
        return answer

    host.peer.site.pages[path] = slowly
    _, other = owner_and_other(replicas, host.room_id)
    await replicas.at(other, alice).post(f"/rooms/{quote(host.room_id)}/join")
    assert asked == len(host.received) == 1
    joined = await alice.get(f"/rooms/{quote(host.room_id)}/joined_members")
    assert alice.user_id in joined["joined"]


async def test_the_room_is_brought_in_once(host: Host, alice: Client, bob: Client) -> None:
    host.open_to(alice.user_id)
    host.open_to(bob.user_id)
    host.tell_state()
    path = f"/join/{quote(host.room_id)}?via={host.name}"
    await asyncio.gather(alice.post(path), bob.post(path))
    for client in (alice, bob):
        joined = await client.get(f"/rooms/{quote(host.room_id)}/joined_members")
        assert set(joined["joined"]) == {host.creator, alice.user_id, bob.user_id}
    await alice.send(host.room_id, "both are here")
    (room,) = (await bob.sync())["rooms"]["join"].values()
    shown = [event["content"].get("body") for event in room["timeline"]["events"]]
    assert shown[-1] == "both are here"
    assert sum(event["type"] == "m.room.member" for event in room["timeline"]["events"]) == 2


async def test_a_knock_at_one_is_denied_at_the_other_while_it_is_answered(
    replicas: Replicas, host: Host, alice: Client
) -> None:
    host.send("m.room.join_rules", "", {"join_rule": "knock"})
    host.open_to(alice.user_id, "knock")
    below = host.peer.site.below
    path = next(path for path in below if "/send_knock/" in path)
    answer = below[path]
    denied: list[asyncio.Task[Results]] = []
    other = owner_and_other(replicas, host.room_id)[1].app.federation
    assert other is not None

    async def deny_first(request: web.BaseRequest) -> web.StreamResponse:
        answered: web.StreamResponse = await answer(request)
        host.let_in(host.received[0])
        kick = host.send("m.room.member", alice.user_id, {"membership": "leave"})
        denied.append(asyncio.create_task(other.incoming.take(host.name, host.room_id, [kick.pdu])))
        await asyncio.wait(denied, timeout=0.3)
        return answered

    below[path] = deny_first
    await alice.post(f"/knock/{quote(host.room_id)}?via={host.name}")
    await denied[0]
    for client in (alice, replicas.at_b(alice)):
        assert "knock" not in (await client.sync(full=True)).get("rooms", {})


async def test_an_event_that_one_replica_knew_by_hearsay_counts_there_once_the_other_has_it(
    replicas: Replicas, host: Host, alice: Client
) -> None:
    (a, in_a), (b, in_b) = await joined(replicas, host, alice)
    renamed = host.send("m.room.member", host.creator, {"membership": "join", "displayname": "Hostess"})
    await Outliers(b.graph_events, replicas.b.app.store.collection(SIDE_EVENTS)).add(in_b, [renamed])
    assert (await b.graph_events.get_many(in_b, [renamed.event_id])).keys() == {renamed.event_id}
    assert await a.receiver.receive(in_a, renamed) is Outcome.ACCEPTED
    await alice.send(host.room_id, "welcome")
    await until(lambda: in_b.last_seq == in_a.last_seq)
    beside = host.event("m.room.message", None, {"msgtype": "m.text", "body": "hello"})
    assert await b.receiver.receive(in_b, beside) is Outcome.ACCEPTED


async def test_an_event_is_judged_by_what_another_replica_has_taken_before_it(
    replicas: Replicas, host: Host, alice: Client
) -> None:
    """Somebody comes in and speaks; the other server sends the one here, and the other there."""
    (a, in_a), (b, in_b) = await joined(replicas, host, alice)
    await until(lambda: in_b.last_seq == in_a.last_seq)
    replicas.exchange.hold(True)
    came = by_guest(host, "m.room.member", {"membership": "join"}, "m.room.join_rules")
    said = by_guest(host, "m.room.message", {"msgtype": "m.text", "body": "hello"})
    assert await a.receiver.receive(in_a, came) is Outcome.ACCEPTED
    assert await b.receiver.receive(in_b, said) is Outcome.ACCEPTED


async def test_nothing_is_put_aside_for_good_by_a_state_that_another_replica_has_changed(
    replicas: Replicas, host: Host, alice: Client
) -> None:
    """What forks the room is shown if the state of now allows it, too."""
    (a, in_a), (b, in_b) = await joined(replicas, host, alice)
    came = by_guest(host, "m.room.member", {"membership": "join"}, "m.room.join_rules")
    beside = by_guest(host, "m.room.message", {"msgtype": "m.text", "body": "hello"})
    host.events.remove(beside)
    mute = host.send("m.room.power_levels", "", {"users": {host.creator: 100}, "events_default": 50})
    for event in (came, mute):
        assert await a.receiver.receive(in_a, event) is Outcome.ACCEPTED
    await until(lambda: in_b.last_seq == in_a.last_seq)
    replicas.exchange.hold(True)
    allow = host.send("m.room.power_levels", "", {"users": {host.creator: 100}})
    assert await a.receiver.receive(in_a, allow) is Outcome.ACCEPTED
    assert await b.receiver.receive(in_b, beside) is Outcome.ACCEPTED


async def test_what_is_said_to_a_replica_that_has_not_heard_of_the_return_is_taken(
    replicas: Replicas, host: Host, alice: Client
) -> None:
    host.peer.site.below[f"{V1}/send/"] = taken
    (a, in_a), (b, in_b) = await joined(replicas, host, alice)
    await alice.post(f"/rooms/{quote(host.room_id)}/leave")
    await until(lambda: in_b.last_seq == in_a.last_seq)
    left = await replicas.a.app.store.log.by_event_id(in_a.shard, in_a.head.tips)
    host.let_in(json.loads(next(iter(left.values())).body))
    replicas.exchange.hold(True)
    await join(host, alice)
    said = host.send("m.room.message", None, {"msgtype": "m.text", "body": "back again?"})
    other, stale = (b, in_b) if alice.user_id not in in_b.joined else (a, in_a)
    assert alice.user_id not in stale.joined
    assert await other.incoming.take(host.name, host.room_id, [said.pdu]) == {said.event_id: None}


async def test_who_was_let_in_at_one_replica_comes_in_at_the_other(
    replicas: Replicas, host: Host, alice: Client
) -> None:
    """Before the other one has heard that they may."""
    room_id = await alice.create_room()
    owner, other = owner_and_other(replicas, room_id)
    await graph_and_room(other, room_id)
    replicas.exchange.hold(True)
    await replicas.at(owner, alice).set_state(room_id, "m.room.join_rules", {"join_rule": "public"})
    federated, _ = await graph_and_room(other, room_id)
    guest = f"@guest:{host.name}"
    made = await federated.resident.template(host.name, room_id, guest, "join", list(ROOM_VERSIONS))
    assert made["event"]["state_key"] == guest


async def test_who_came_in_at_one_replica_is_told_of_the_room_at_the_other(
    replicas: Replicas, host: Host, alice: Client
) -> None:
    """A server that joins asks at once for what it needs."""
    room_id = await alice.create_room(preset="public_chat", room_version="11")
    owner, other = owner_and_other(replicas, room_id)
    (there, room), (here, _) = [await graph_and_room(each, room_id) for each in (owner, other)]
    replicas.exchange.hold(True)
    guest = f"@guest:{host.name}"
    made = await there.resident.template(host.name, room_id, guest, "join", ["11"])
    pdu = signed("11", made["event"], host.name, host.peer.key)
    join = event_id_of(ROOM_VERSIONS["11"], pdu)
    await there.resident.take(host.name, room, join, "join", pdu)
    state, _ = await here.told.state_ids(room_id, join, host.name)
    assert room.head.state["m.room.create", ""].event_id in state


async def taken(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"pdus": {}})


def by_guest(host: Host, type: str, content: JsonObject, *rests_on: str) -> Event:
    """What somebody of the host's server does in its room: comes in at first."""
    guest = f"@guest:{host.name}"
    keys = [("m.room.create", ""), ("m.room.power_levels", ""), *((each, "") for each in rests_on)]
    if ("m.room.member", guest) in host.state:
        keys.append(("m.room.member", guest))
    auth_events = [host.state[key].event_id for key in keys]
    state_key = guest if type == "m.room.member" else None
    return host.send(type, state_key, content, sender=guest, auth_events=auth_events)


def owner_and_other(replicas: Replicas, room_id: str) -> tuple[Replica, Replica]:
    """The replica that owns a room, and the one that does not."""
    a, b = replicas.a, replicas.b
    return (a, b) if a.app.ground.others.elsewhere(room_id) is None else (b, a)


async def join(host: Host, client: Client) -> None:
    """Have a client come into the host's room, where they may."""
    await client.post(f"/join/{quote(host.room_id)}?via={host.name}")
    host.let_in(host.received[-1])


async def joined(replicas: Replicas, host: Host, client: Client) -> list[Part]:
    """What both replicas have of the host's room once a client has joined it."""
    host.open_to(client.user_id)
    await join(host, client)
    return [await graph_and_room(each, host.room_id) for each in (replicas.a, replicas.b)]


async def graph_and_room(replica: Replica, room_id: str) -> Part:
    """A replica's part that has to do with other servers, and a room there."""
    room = await replica.app.rooms.get(room_id)
    assert room is not None
    assert replica.app.federation is not None
    return replica.app.federation, room
