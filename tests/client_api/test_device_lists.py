"""Who is told that somebody's devices changed (spec: client-server "Tracking the device list for a user")."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from homeserver.sync import device_lists
from storage.errors import StoreUnavailable
from storage.log import Entry, Kind, Log, ShardMap
from storage.store import Store
from tests.client_api.conftest import Client, Server
from tests.client_api.crypto_device import (
    ALGORITHM,
    CrossSigner,
    CryptoDevice,
    challenged,
    log_in,
    password_proof,
    public,
    restart,
    serving,
)
from tests.storage.faulty import FaultyStore


async def together(*clients: Client) -> str:
    """A room with all of them in it, which they have all seen."""
    first, *others = clients
    room_id = await first.create_room(preset="public_chat")
    for other in others:
        await other.join(room_id)
    for client in clients:
        await client.sync()
    return room_id


async def changes(client: Client) -> tuple[list[str], list[str]]:
    """(changed, left) of the next sync."""
    lists = (await client.sync()).get("device_lists", {})
    return lists.get("changed", []), lists.get("left", [])


NOTHING: tuple[list[str], list[str]] = ([], [])


async def test_new_keys_are_told_once_to_those_who_share_a_room_and_to_nobody_else(
    alice: Client, bob: Client, carol: Client
) -> None:
    await together(alice, bob)
    await carol.sync()
    await CryptoDevice(bob).upload()
    for client in (alice, bob):
        assert await changes(client) == ([bob.user_id], [])
        assert await changes(client) == NOTHING
    assert await changes(carol) == NOTHING


async def test_uploading_what_is_there_already_is_no_change(alice: Client, bob: Client) -> None:
    await together(alice, bob)
    device = CryptoDevice(bob)
    await device.upload()
    await alice.sync()
    await device.upload(one_time=3)
    await bob.post("/keys/upload", {"one_time_keys": device.one_time_keys(1)})
    assert await changes(alice) == NOTHING


async def test_a_change_wakes_a_waiting_long_poll(alice: Client, bob: Client) -> None:
    await together(alice, bob)
    poll = asyncio.create_task(alice.sync(timeout=20_000))
    await asyncio.sleep(0.05)
    await CryptoDevice(bob).upload()
    body = await asyncio.wait_for(poll, 5)
    assert body["device_lists"]["changed"] == [bob.user_id]


@pytest.mark.parametrize("in_memory", [True, False])
async def test_a_change_wakes_those_whose_rooms_are_not_in_memory(
    server: Server, alice: Client, bob: Client, in_memory: bool
) -> None:
    room_id = await together(alice, bob)
    await restart(server, alice, bob)
    if in_memory:
        await bob.sync(set_presence="offline")
    poll = asyncio.create_task(alice.sync(timeout=20_000, set_presence="offline"))
    await asyncio.sleep(0.05)
    ground = server.app.ground
    assert ground.rooms.cached(room_id) is None
    assert (ground.users.cached(bob.user_id) is not None) == in_memory
    await CryptoDevice(bob).upload()
    body = await asyncio.wait_for(poll, 5)
    assert body["device_lists"]["changed"] == [bob.user_id]


async def test_every_kind_of_change_is_told(alice: Client, bob: Client) -> None:
    await together(alice, bob)
    phone = await log_in(bob)
    device = CryptoDevice(phone, 2)
    signer = CrossSigner(bob.user_id)
    told: tuple[list[str], list[str]] = ([bob.user_id], [])

    assert await changes(alice) == NOTHING
    await device.upload()
    assert await changes(alice) == told
    await phone.put(f"/devices/{phone.device_id}", {"display_name": "Bob's phone"})
    assert await changes(alice) == told
    await phone.post("/keys/device_signing/upload", signer.upload())
    assert await changes(alice) == told
    signed = signer.sign_device(device.device_keys())
    await phone.post("/keys/signatures/upload", {bob.user_id: {phone.device_id: signed}})
    assert await changes(alice) == told
    new = CrossSigner(bob.user_id, 2).upload()
    session = (await challenged(phone, new))["session"]
    await phone.post("/keys/device_signing/upload", {**new, "auth": password_proof(phone, session)})
    assert await changes(alice) == told
    await phone.post("/logout")
    assert await changes(alice) == told


async def test_a_signature_that_comes_while_earlier_ones_are_read_is_told_next(
    server: Server, monkeypatch: pytest.MonkeyPatch, alice: Client, bob: Client
) -> None:
    await together(alice, bob)
    mine, theirs = CrossSigner(alice.user_id, 1), CrossSigner(bob.user_id, 2)
    for client, signer in ((alice, mine), (bob, theirs)):
        await client.post("/keys/device_signing/upload", signer.upload())
        await client.sync()
    await restart(server, alice, bob)
    await alice.send(await alice.create_room(), "news, so that the next sync looks")
    log_port = server.app.store.log
    current = log_port.current
    signed = {bob.user_id: {public(theirs.master): mine.sign_user(theirs.master_key())}}

    async def overtaken(shard: int, stream: str, kind: Kind) -> Any:
        refs = await current(shard, stream, kind)
        if kind is Kind.DEVICE_LIST and stream == alice.user_id:
            monkeypatch.undo()
            assert await alice.post("/keys/signatures/upload", signed) == {"failures": {}}
        return refs

    monkeypatch.setattr(log_port, "current", overtaken)
    await changes(alice)
    assert await changes(alice) == ([bob.user_id], [])


async def test_a_device_without_keys_is_nobodys_business(alice: Client, bob: Client) -> None:
    await together(alice, bob)
    phone = await log_in(bob)
    await phone.put(f"/devices/{phone.device_id}", {"display_name": "quiet"})
    await phone.post("/logout")
    assert await changes(alice) == NOTHING


async def test_deactivation_withdraws_all_keys_and_is_told(alice: Client, bob: Client) -> None:
    await together(alice, bob)
    await CryptoDevice(bob).upload()
    await bob.post("/keys/device_signing/upload", CrossSigner(bob.user_id).upload())
    await alice.sync()
    challenge = await bob.call("POST", "/account/deactivate", {}, expect=401)
    await bob.post("/account/deactivate", {"auth": password_proof(bob, challenge.body["session"])})
    changed: set[str] = set()
    left: set[str] = set()
    for _ in range(50):
        newly_changed, newly_left = await changes(alice)
        changed.update(newly_changed)
        left.update(newly_left)
        shown = await CryptoDevice(alice).query(bob.user_id)
        if left and not shown["master_keys"]:
            break
        await asyncio.sleep(0.05)
    # Who has left between two syncs has not changed as well.
    assert changed <= {bob.user_id}
    assert left == {bob.user_id}
    assert shown["device_keys"] == {bob.user_id: {}}
    assert shown["master_keys"] == {}


# Sharing rooms


async def test_who_joins_is_new_to_the_members_and_they_to_who_joins(
    alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await together(alice, bob)
    await carol.sync()
    await carol.join(room_id)
    assert await changes(alice) == ([carol.user_id], [])
    changed, left = await changes(carol)
    assert set(changed) >= {alice.user_id, bob.user_id}
    assert left == []


async def test_who_leaves_the_last_shared_room_has_left(alice: Client, bob: Client, carol: Client) -> None:
    first = await together(alice, bob, carol)
    second = await together(alice, bob)
    await carol.sync()
    await bob.leave(first)
    assert await changes(alice) == NOTHING
    assert await changes(carol) == ([], [bob.user_id])
    changed, left = await changes(bob)
    assert (changed, left) == ([], [carol.user_id])
    await bob.leave(second)
    assert await changes(alice) == ([], [bob.user_id])
    assert await changes(bob) == ([], [alice.user_id])


async def test_a_change_after_leaving_is_not_told_until_they_meet_again(alice: Client, bob: Client) -> None:
    room_id = await together(alice, bob)
    await bob.leave(room_id)
    assert await changes(alice) == ([], [bob.user_id])
    await CryptoDevice(bob).upload()
    assert await changes(alice) == NOTHING
    await bob.join(room_id)
    assert await changes(alice) == ([bob.user_id], [])


async def test_coming_and_going_between_two_syncs_ends_as_left(alice: Client, bob: Client) -> None:
    room_id = await together(alice, bob)
    await bob.leave(room_id)
    await bob.join(room_id)
    await bob.leave(room_id)
    assert await changes(alice) == ([], [bob.user_id])


async def test_profile_changes_and_invites_are_no_changes_of_devices(
    alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await together(alice, bob)
    await carol.sync()
    await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Robert"})
    await alice.invite(room_id, carol.user_id)
    for client in (alice, bob, carol):
        assert await changes(client) == NOTHING


async def test_a_kicked_user_has_left_for_all(alice: Client, bob: Client) -> None:
    room_id = await together(alice, bob)
    await alice.post(f"/rooms/{room_id}/kick", {"user_id": bob.user_id})
    assert await changes(alice) == ([], [bob.user_id])
    assert await changes(bob) == ([], [alice.user_id])


# Long absence


async def test_changes_before_a_restart_are_told_after_it(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    """HARDENING 33: the log of changes survives restarts."""
    room_id = await together(alice, bob)
    await alice.sync()
    await CryptoDevice(bob).upload()
    await carol.join(room_id)
    await restart(server, alice, bob, carol)
    assert await changes(alice) == (sorted([bob.user_id, carol.user_id]), [])
    await restart(server, alice, bob, carol)
    assert await changes(alice) == NOTHING


async def test_everybody_elses_changes_before_a_restart_bring_nobody_into_memory(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    await together(alice, bob)
    await together(alice, carol)
    strangers = [await server.register(f"stranger{n}") for n in range(5)]
    for client in (bob, *strangers):
        await CryptoDevice(client).upload()
    await restart(server, alice)
    assert await changes(alice) == ([bob.user_id], [])
    users = server.app.ground.users
    assert [client.user_id for client in strangers if users.cached(client.user_id) is not None] == []


async def test_leaving_before_a_restart_is_told_after_it(server: Server, alice: Client, bob: Client) -> None:
    room_id = await together(alice, bob)
    await alice.sync()
    await bob.leave(room_id)
    await restart(server, alice, bob)
    assert await changes(alice) == ([], [bob.user_id])


async def test_own_joining_and_leaving_before_a_restart_are_told_after_it(
    server: Server, alice: Client, bob: Client, carol: Client
) -> None:
    left, joined = await together(alice, bob), await together(carol)
    await bob.sync()
    await bob.leave(left)
    await bob.join(joined)
    await restart(server, bob)
    changed, gone = await changes(bob)
    assert (set(changed) - {bob.user_id}, gone) == ({carol.user_id}, [alice.user_id])


async def test_a_join_followed_by_a_new_name_is_told_after_a_restart(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await together(alice)
    await alice.sync()
    await bob.join(room_id)
    await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Robert"})
    for number in range(40):
        await alice.send(room_id, f"{number}")
    await restart(server, alice, bob)
    assert await changes(alice) == ([bob.user_id], [])


async def test_nothing_is_missed_when_more_changed_than_is_kept_in_memory(
    alice: Client, bob: Client, carol: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_lists, "CHANGES_KEPT", 2)
    monkeypatch.setattr(device_lists, "PAGE", 2)
    room_id = await together(alice, bob)
    await CryptoDevice(bob).upload()
    await carol.join(room_id)
    for number in range(2, 10):
        await CryptoDevice(carol, number).upload()
        await carol.leave(room_id)
        await carol.join(room_id)
    assert await changes(alice) == (sorted([bob.user_id, carol.user_id]), [])


# /keys/changes


async def test_keys_changes_covers_what_lies_between_two_syncs(
    alice: Client, bob: Client, carol: Client
) -> None:
    room_id = await together(alice, bob, carol)
    before = alice.next_batch
    await CryptoDevice(bob).upload()
    between = (await alice.sync())["next_batch"]
    await carol.leave(room_id)
    after = (await alice.sync())["next_batch"]

    async def query(start: str | None, end: str | None) -> Any:
        return await alice.get("/keys/changes", query={"from": start, "to": end})

    assert await query(before, between) == {"changed": [bob.user_id], "left": []}
    assert await query(between, after) == {"changed": [], "left": [carol.user_id]}
    assert await query(before, after) == {"changed": [bob.user_id], "left": [carol.user_id]}
    assert await query(after, before) == {"changed": [], "left": []}
    await alice.call("GET", "/keys/changes", query={"from": before}, expect=400)
    await alice.call("GET", "/keys/changes", query={"from": "x", "to": after}, expect=400)


# Crashes


async def test_whichever_write_fails_others_know_the_new_keys_after_the_second_try(tmp_path: Path) -> None:
    """HARDENING 33: lost device-list change."""
    stores: list[FaultyStore] = []

    def faulty(store: Store) -> Store:
        stores.append(FaultyStore(store, error=StoreUnavailable("told to fail")))
        return stores[0]

    async with serving(tmp_path, faulty) as base, aiohttp.ClientSession() as http:
        alice = await Client(base, http).register("alice")
        bob = await Client(base, http).register("bob")
        await together(alice, bob)
        failed, step = True, 0
        while failed:
            step += 1
            assert step < 20, "an upload takes more steps than it was given"
            device = CryptoDevice(bob, step)
            body = {"device_keys": device.device_keys(), "one_time_keys": device.one_time_keys(2)}
            stores[0].arm(step)
            failed = (await bob.call("POST", "/keys/upload", body, expect=None)).status != 200
            stores[0].arm(None)
            await bob.post("/keys/upload", body)
            for _ in range(100):
                if (await changes(alice))[0]:
                    break
                await asyncio.sleep(0.02)
            else:
                raise AssertionError(f"alice is never told of the change that failed at step {step}")
            shown = await device.query(bob.user_id)
            assert shown["device_keys"][bob.user_id][bob.device_id]["keys"] == body["device_keys"]["keys"]
            assert (await bob.sync(full=True))["device_one_time_keys_count"] == {ALGORITHM: 2}
        assert step > 3


class _DeafLog:
    """A log that takes nothing for room shards."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.deaf = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, shard: int, expected: int, entries: Sequence[Entry]) -> int:
        if self.deaf and shard < ShardMap.USER_BASE:
            raise StoreUnavailable("told to fail")
        return await self._log.append(shard, expected, entries)


class _DeafStore:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.log = _DeafLog(store.log)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_a_change_that_was_stored_but_not_announced_is_announced_after_a_restart(
    tmp_path: Path,
) -> None:
    """HARDENING 33: crash between write and answer."""
    stores: list[_DeafStore] = []

    def deaf(store: Store) -> Store:
        stores.append(_DeafStore(store))
        return cast(Store, stores[-1])

    async with aiohttp.ClientSession() as http:
        async with serving(tmp_path, deaf) as base:
            alice = await Client(base, http).register("alice")
            bob = await Client(base, http).register("bob")
            await together(alice, bob)
            stores[0].log.deaf = True
            await CryptoDevice(bob).upload()
            assert await changes(alice) == NOTHING
        async with serving(tmp_path, lambda store: store) as base:
            alice._base = base
            body = await alice.sync(timeout=5000)
            assert body["device_lists"] == {"changed": [bob.user_id], "left": []}
