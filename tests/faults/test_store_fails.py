"""The store fails at step 1, 2, 3 … of each operation: no half-made change is ever seen (HARDENING 46)."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from homeserver.app.stores import SPECS
from homeserver.app.wiring import App
from homeserver.config import Config
from rest.connections import runner_of
from storage.errors import StoreUnavailable
from storage.log import ShardMap
from storage.sqlite import open_store
from tests.client_api.conftest import Client, Reply
from tests.storage.faulty import FaultyStore

MAX_STEPS = 40
OLD, NEW = "correct horse", "battery staple"

Operation = Callable[[Client, Client, str], Awaitable[None]]


async def create_room(alice: Client, bob: Client, room_id: str) -> None:
    await alice.create_room(name="new", topic="t", invite=[bob.user_id], room_alias_name="new")


async def send(alice: Client, bob: Client, room_id: str) -> None:
    await alice.send(room_id, "hello", txn="fixed")


async def redact(alice: Client, bob: Client, room_id: str) -> None:
    page = await alice.get(f"/rooms/{room_id}/messages", query={"dir": "b", "limit": 1})
    await alice.put(f"/rooms/{room_id}/redact/{page['chunk'][0]['event_id']}/fixed", {})


async def upgrade(alice: Client, bob: Client, room_id: str) -> None:
    await alice.post(f"/rooms/{room_id}/upgrade", {"new_version": "11"})


async def set_profile(alice: Client, bob: Client, room_id: str) -> None:
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "A"})


async def register(alice: Client, bob: Client, room_id: str) -> None:
    carol = await alice.stranger().register("carol")
    devices = (await carol.get("/devices"))["devices"]
    assert [device["device_id"] for device in devices] == [carol.device_id]


async def receipt(alice: Client, bob: Client, room_id: str) -> None:
    page = await alice.get(f"/rooms/{room_id}/messages", query={"dir": "b", "limit": 1})
    await bob.post(f"/rooms/{room_id}/receipt/m.read/{page['chunk'][0]['event_id']}")


async def attempt(operation: Awaitable[None]) -> str | None:
    """Why a request of the operation was refused, None when all went well."""
    try:
        await operation
    except AssertionError as error:
        return str(error)
    return None


async def check_room(client: Client, room_id: str) -> None:
    """What everybody may rely on in a room they are joined to."""
    state: list[dict[str, Any]] = await client.get(f"/rooms/{room_id}/state")
    types = {event["type"] for event in state}
    assert {"m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules"} <= types
    page = await client.get(f"/rooms/{room_id}/messages", query={"dir": "b", "limit": 1000})
    ids = [event["event_id"] for event in page["chunk"]]
    assert len(ids) == len(set(ids))
    bodies = [event["content"].get("body") for event in page["chunk"]]
    assert bodies.count("hello") <= 1


class Failing(NamedTuple):
    """A server whose store fails when it is told to."""

    store: FaultyStore
    stranger: Client


@pytest.fixture
async def failing(tmp_path: Path) -> AsyncIterator[Failing]:
    config = Config.for_development("localhost", tmp_path, 8008)
    real = await open_store(config.storage.uri, server_name="localhost", shards=ShardMap(1, 1), specs=SPECS)
    faulty = FaultyStore(real, fail_at=None, error=StoreUnavailable("told to fail"))
    app = App(config, faulty)
    await app.start()
    runner = runner_of(app.web_application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with aiohttp.ClientSession() as http:
            yield Failing(faulty, Client(base, http))
    finally:
        await runner.cleanup()
        await app.close()


@pytest.mark.parametrize(
    "operation",
    [create_room, send, redact, upgrade, set_profile, register, receipt],
    ids=lambda f: f.__name__,
)
async def test_no_partial_change_is_visible_when_the_store_fails(
    operation: Operation, failing: Failing
) -> None:
    alice = await failing.stranger.stranger().register("alice")
    bob = await failing.stranger.stranger().register("bob")
    room_id = await alice.create_room(preset="public_chat", room_version="10")
    await bob.join(room_id)
    await alice.send(room_id, "first")
    for step in range(1, MAX_STEPS):
        failing.store.arm(step)
        failure = await attempt(operation(alice, bob, room_id))
        failing.store.arm(None)
        failed = failure is not None
        assert failure is None or " 503 " in failure, failure
        joined = (await alice.get("/joined_rooms"))["joined_rooms"]
        for joined_id in joined:
            await check_room(alice, joined_id)
        await alice.sync(full=True)
        await bob.sync(full=True)
        if not failed:
            break
    assert not failed, "the operation needs more steps than it was given"


async def test_room_that_was_made_is_named_when_the_store_fails_behind_it(failing: Failing) -> None:
    alice = await failing.stranger.stranger().register("alice")
    for step in range(1, MAX_STEPS):
        before = (await alice.get("/joined_rooms"))["joined_rooms"]
        failing.store.arm(step)
        wanted = {"visibility": "public", "room_alias_name": f"room{step}"}
        reply = await alice.call("POST", "/createRoom", wanted, expect=None)
        all_went_well = failing.store.writes < step
        failing.store.arm(None)
        named = [reply.body["room_id"]] if reply.status == 200 else []
        assert set((await alice.get("/joined_rooms"))["joined_rooms"]) == {*before, *named}
        if all_went_well:
            break
    assert all_went_well, "the operation needs more steps than it was given"
    listed = [room["room_id"] for room in (await alice.get("/publicRooms"))["chunk"]]
    assert named[0] in listed


async def test_upgrade_cut_short_is_brought_to_its_end(failing: Failing) -> None:
    """Whoever comes by the alias, and whoever follows the tombstone, come to one room; no other is made."""
    alice = await failing.stranger.stranger().register("alice")
    for step in range(1, MAX_STEPS):
        before = set((await alice.get("/joined_rooms"))["joined_rooms"])
        named = {"room_alias_name": f"room{step}", "visibility": "public"}
        old = await alice.create_room(room_version="10", **named)
        path = f"/rooms/{quote(old)}/upgrade"
        failing.store.arm(step)
        reply = await alice.call("POST", path, {"new_version": "11"}, expect=None)
        all_went_well = failing.store.writes < step
        failing.store.arm(None)
        tombstone = f"/rooms/{quote(old)}/state/m.room.tombstone"
        told = (await alice.call("GET", tombstone, expect=None)).body.get("replacement_room")
        if reply.status != 200:
            assert reply.status == 503
            reply = await alice.call("POST", path, {"new_version": "11"})
        new = reply.body["replacement_room"]
        assert told in (new, None)
        assert (await alice.get(tombstone))["replacement_room"] == new
        alias = quote(f"#room{step}:localhost")
        assert (await alice.get(f"/directory/room/{alias}"))["room_id"] == new
        listed = {room["room_id"] for room in (await alice.get("/publicRooms"))["chunk"]}
        assert new in listed
        assert old not in listed
        joined = set((await alice.get("/joined_rooms"))["joined_rooms"])
        assert joined - before == {old, new}
        if all_went_well:
            break
    assert all_went_well, "the operation needs more steps than it was given"


async def test_who_was_banned_after_an_upgrade_was_cut_short_is_banned_from_the_replacement(
    failing: Failing,
) -> None:
    alice = await failing.stranger.stranger().register("alice")
    banned = "@bob:localhost"
    # What works behind the log takes steps, too.
    for step in [*range(1, 10)] * 10:
        old = await alice.create_room(room_version="10")
        path = f"/rooms/{quote(old)}/upgrade"
        before = set((await alice.get("/joined_rooms"))["joined_rooms"])
        failing.store.arm(step)
        await alice.call("POST", path, {"new_version": "11"}, expect=None)
        failing.store.arm(None)
        made = set((await alice.get("/joined_rooms"))["joined_rooms"]) - before
        tombstone = await alice.call("GET", f"/rooms/{quote(old)}/state/m.room.tombstone", expect=None)
        if made and tombstone.status == 404:
            break
    assert made and tombstone.status == 404, "no step lies between the new room and the tombstone"
    await alice.post(f"/rooms/{quote(old)}/ban", {"user_id": banned})
    new = (await alice.post(path, {"new_version": "11"}))["replacement_room"]
    assert (await alice.get(f"/rooms/{quote(new)}/state/m.room.member/{banned}"))["membership"] == "ban"


async def test_password_that_was_changed_lets_nobody_stay_when_the_store_fails(failing: Failing) -> None:
    for step in range(1, MAX_STEPS):
        alice = await failing.stranger.stranger().register(f"alice{step}", OLD)
        thief = failing.stranger.stranger()
        thief.token = (await log_in(thief, alice.user_id, OLD)).body["access_token"]
        failing.store.arm(step)
        change = {"new_password": NEW, "auth": password_of(alice.user_id, OLD)}
        failed = (await alice.call("POST", "/account/password", change, expect=None)).status == 503
        failing.store.arm(None)
        if (await log_in(thief.stranger(), alice.user_id, OLD)).status != 200:
            await thief.call("GET", "/account/whoami", expect=401)
            await alice.get("/account/whoami")
        if not failed:
            break
    assert not failed, "the operation needs more steps than it was given"


async def test_login_that_fails_with_the_store_leaves_no_device(failing: Failing) -> None:
    alice = await failing.stranger.stranger().register("alice", OLD)
    for step in range(1, MAX_STEPS):
        failing.store.arm(step)
        reply = await log_in(alice.stranger(), alice.user_id, OLD)
        failing.store.arm(None)
        listed = {device["device_id"] for device in (await alice.get("/devices"))["devices"]}
        if reply.status == 200:
            break
        assert reply.status == 503
        assert listed == {alice.device_id}
    assert listed == {alice.device_id, reply.body["device_id"]}


def password_of(user_id: str, password: str) -> dict[str, Any]:
    identifier = {"type": "m.id.user", "user": user_id}
    return {"type": "m.login.password", "identifier": identifier, "password": password}


async def log_in(stranger: Client, user_id: str, password: str) -> Reply:
    return await stranger.call("POST", "/login", password_of(user_id, password), expect=None)
