"""Devices (spec: client-server "Device Management")."""

import asyncio

import pytest

from homeserver.protocol.json_types import JsonObject
from storage.errors import StoreUnavailable
from tests.client_api.conftest import Client, Server
from tests.waiting import until

PASSWORD = "correct horse"


def proof(user: Client) -> JsonObject:
    identifier = {"type": "m.id.user", "user": user.user_id}
    return {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}


async def another_device(server: Server, user: Client, device_id: str, name: str | None = None) -> Client:
    body: JsonObject = {**proof(user), "device_id": device_id}
    if name is not None:
        body["initial_device_display_name"] = name
    answer = await server.client().post("/login", body)
    other = server.client()
    other.token, other.user_id, other.device_id = answer["access_token"], answer["user_id"], device_id
    return other


async def test_devices_are_listed_with_what_is_known_of_them(alice: Client, server: Server) -> None:
    phone = await another_device(server, alice, "PHONE", "my phone")
    await phone.call("GET", "/account/whoami", headers={"User-Agent": "Phone/1.0"})
    devices = {d["device_id"]: d for d in (await alice.get("/devices"))["devices"]}
    assert set(devices) == {alice.device_id, "PHONE"}
    assert "display_name" not in devices[alice.device_id]
    assert devices["PHONE"]["display_name"] == "my phone"
    assert devices["PHONE"]["last_seen_ip"] == "127.0.0.1"
    assert devices["PHONE"]["last_seen_ts"] > 1_600_000_000_000
    assert devices["PHONE"]["org.matrix.msc3852.last_seen_user_agent"] == "Phone/1.0"
    assert await alice.get("/devices/PHONE") == devices["PHONE"]


async def test_device_that_was_never_here_has_no_last_seen(alice: Client, server: Server) -> None:
    await another_device(server, alice, "NEW")
    assert await alice.get("/devices/NEW") == {"device_id": "NEW"}


async def test_last_seen_survives_a_restart(alice: Client, server: Server) -> None:
    await alice.get("/account/whoami")
    before = await alice.get(f"/devices/{alice.device_id}")
    await server.restart()
    assert (await alice.get(f"/devices/{alice.device_id}"))["last_seen_ip"] == before["last_seen_ip"]


async def test_hardening_20_others_devices_are_not_to_be_seen_or_touched(alice: Client, bob: Client) -> None:
    path = f"/devices/{alice.device_id}"
    assert (await bob.call("GET", path, expect=404)).errcode == "M_NOT_FOUND"
    assert (await bob.call("PUT", path, {"display_name": "x"}, expect=404)).errcode == "M_NOT_FOUND"
    await bob.delete(path, {"auth": proof(bob)})
    await bob.post("/delete_devices", {"devices": [alice.device_id], "auth": proof(bob)})
    assert (await alice.get("/account/whoami"))["device_id"] == alice.device_id


async def test_device_is_renamed(alice: Client, server: Server) -> None:
    told: list[tuple[str, str, str]] = []

    async def on_rename(user_id: str, device_id: str, name: str) -> None:
        told.append((user_id, device_id, name))

    server.app.people.devices.on_rename.append(on_rename)
    path = f"/devices/{alice.device_id}"
    assert await alice.put(path, {"display_name": "tablet"}) == {}
    assert (await alice.get(path))["display_name"] == "tablet"
    await alice.put(path, {})
    assert (await alice.get(path))["display_name"] == "tablet"
    assert told == [(alice.user_id, alice.device_id, "tablet")]


async def test_new_name_that_was_not_told_is_told_when_it_is_set_again(alice: Client, server: Server) -> None:
    told: list[str] = []

    async def fails_once(user_id: str, device_id: str, name: str) -> None:
        told.append(name)
        if len(told) == 1:
            raise StoreUnavailable("cut short")

    server.app.people.devices.on_rename.append(fails_once)
    path = f"/devices/{alice.device_id}"
    await alice.call("PUT", path, {"display_name": "tablet"}, expect=503)
    await alice.put(path, {"display_name": "tablet"})
    assert told == ["tablet", "tablet"]


async def test_device_that_is_not_there_cannot_be_renamed(alice: Client) -> None:
    for body in ({"display_name": "x"}, {}):
        assert (await alice.call("PUT", "/devices/NONE", body, expect=404)).errcode == "M_NOT_FOUND"


async def test_hardening_14_device_name_is_bounded(alice: Client) -> None:
    path = f"/devices/{alice.device_id}"
    await alice.put(path, {"display_name": "x" * 100})
    assert (
        await alice.call("PUT", path, {"display_name": "x" * 101}, expect=400)
    ).errcode == "M_INVALID_PARAM"
    assert (await alice.call("PUT", path, {"display_name": 1}, expect=400)).errcode == "M_BAD_JSON"


async def test_deleted_device_is_logged_out_with_all_that_is_its_own(alice: Client, server: Server) -> None:
    phone = await another_device(server, alice, "PHONE")
    gone: list[str] = []

    async def on_device_gone(user_id: str, device_id: str) -> None:
        gone.append(device_id)

    server.app.people.sessions.on_device_gone.append(on_device_gone)
    await alice.delete("/devices/PHONE", {"auth": proof(alice)})
    assert (await phone.call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"
    assert (await alice.call("GET", "/devices/PHONE", expect=404)).errcode == "M_NOT_FOUND"
    assert gone == ["PHONE"]


async def test_deleting_a_device_that_is_not_there_succeeds(alice: Client, server: Server) -> None:
    gone: list[str] = []

    async def on_device_gone(user_id: str, device_id: str) -> None:
        gone.append(device_id)

    server.app.people.sessions.on_device_gone.append(on_device_gone)
    assert await alice.delete("/devices/NONE", {"auth": proof(alice)}) == {}
    assert gone == []


async def test_many_devices_are_deleted_at_once(alice: Client, server: Server) -> None:
    for name in ("A", "B", "C"):
        await another_device(server, alice, name)
    assert (await alice.call("POST", "/delete_devices", {"devices": ["A", "B"]}, expect=401)).body["flows"]
    await alice.post("/delete_devices", {"devices": ["A", "B", "NONE"], "auth": proof(alice)})
    assert {d["device_id"] for d in (await alice.get("/devices"))["devices"]} == {alice.device_id, "C"}


async def test_own_device_can_be_deleted(alice: Client) -> None:
    await alice.delete(f"/devices/{alice.device_id}", {"auth": proof(alice)})
    assert (await alice.call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"


async def test_deletion_cut_short_can_be_done_again(alice: Client, server: Server) -> None:
    await another_device(server, alice, "PHONE")
    failures = [True]

    async def fails(user_id: str, device_id: str) -> None:
        if failures:
            raise StoreUnavailable("cut short")

    server.app.people.sessions.on_device_gone.append(fails)
    await alice.call("DELETE", "/devices/PHONE", {"auth": proof(alice)}, expect=503)
    assert "PHONE" in {d["device_id"] for d in (await alice.get("/devices"))["devices"]}
    failures.clear()
    await alice.delete("/devices/PHONE", {"auth": proof(alice)})
    assert "PHONE" not in {d["device_id"] for d in (await alice.get("/devices"))["devices"]}


async def test_logout_cut_short_is_carried_through(alice: Client, server: Server) -> None:
    """Its own client cannot do it again: it has no token any more."""
    phone = await another_device(server, alice, "PHONE")
    failures = ["cut short"]

    async def fails_once(user_id: str, device_id: str) -> None:
        if failures:
            raise StoreUnavailable(failures.pop())

    server.app.people.sessions.on_device_gone.append(fails_once)
    await phone.call("POST", "/logout", expect=503)

    async def gone() -> bool:
        return [d["device_id"] for d in (await alice.get("/devices"))["devices"]] == [alice.device_id]

    await until(gone)


async def test_device_whose_id_is_used_again_outlives_a_logout_cut_short(
    alice: Client, server: Server
) -> None:
    phone = await another_device(server, alice, "PHONE")
    passing = asyncio.Event()

    async def fails(user_id: str, device_id: str) -> None:
        if not passing.is_set():
            raise StoreUnavailable("cut short")

    server.app.people.sessions.on_device_gone.insert(0, fails)
    await phone.call("POST", "/logout", expect=503)
    again = await another_device(server, alice, "PHONE")
    passing.set()
    for consumer in server.app.ground.user_consumers:
        for shard in server.app.users.writers:
            await consumer.settled(shard)
    assert (await again.get("/account/whoami"))["device_id"] == "PHONE"


@pytest.mark.parametrize("device_id", ["a b", "ä/ö", "x" * 255, "%", "."])
async def test_any_device_id_that_was_accepted_can_be_named_again(
    alice: Client, server: Server, device_id: str
) -> None:
    from urllib.parse import quote

    await another_device(server, alice, device_id)
    path = f"/devices/{quote(device_id, safe='')}"
    if "/" not in device_id and device_id != ".":
        assert (await alice.get(path))["device_id"] == device_id
    await alice.post("/delete_devices", {"devices": [device_id], "auth": proof(alice)})
    assert [d["device_id"] for d in (await alice.get("/devices"))["devices"]] == [alice.device_id]
