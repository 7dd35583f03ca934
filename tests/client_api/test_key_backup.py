"""Backups of message keys (spec: client-server "Server-side key backups")."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest
from msgspec.structs import replace

from homeserver.e2ee import key_backup
from storage.records.keys import BACKUPS
from tests.client_api.conftest import Client, Server
from tests.client_api.crypto_device import restart

ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"
AUTH_DATA = {"public_key": "abcdefg", "signatures": {"@bob:localhost": {"ed25519:X": "signature"}}}
ROOM, OTHER_ROOM = "!one:localhost", "!two:localhost"


def key(
    index: int = 1, forwarded: int = 0, verified: bool = True, data: str = "sealed", **more: Any
) -> dict[str, Any]:
    return {
        "first_message_index": index,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": {"ephemeral": "e", "ciphertext": data, "mac": "m"},
        **more,
    }


async def create(client: Client) -> str:
    body = {"algorithm": ALGORITHM, "auth_data": AUTH_DATA}
    version: str = (await client.post("/room_keys/version", body))["version"]
    return version


def keys_path(room_id: str | None = None, session_id: str | None = None) -> str:
    parts = [quote(part, safe="") for part in (room_id, session_id) if part is not None]
    return "/".join(["/room_keys/keys", *parts])


async def put(client: Client, version: str, rooms: dict[str, dict[str, Any]]) -> Any:
    body = {"rooms": {room_id: {"sessions": sessions} for room_id, sessions in rooms.items()}}
    return await client.put(keys_path(), body, query={"version": version})


async def contents(client: Client, version: str) -> dict[str, Any]:
    """etag and count as the backup's description has them."""
    info = await client.get(f"/room_keys/version/{version}")
    return {"etag": info["etag"], "count": info["count"]}


# Versions


async def test_a_new_backup_is_the_current_one(bob: Client) -> None:
    await bob.call("GET", "/room_keys/version", expect=404)
    first, second = await create(bob), await create(bob)
    assert first != second
    info = await bob.get("/room_keys/version")
    assert info == {
        "algorithm": ALGORITHM,
        "auth_data": AUTH_DATA,
        "count": 0,
        "etag": info["etag"],
        "version": second,
    }
    assert (await bob.get(f"/room_keys/version/{first}"))["version"] == first


async def test_deleting_a_backup_makes_the_one_before_it_current(bob: Client) -> None:
    first, second = await create(bob), await create(bob)
    await bob.delete(f"/room_keys/version/{second}")
    assert (await bob.get("/room_keys/version"))["version"] == first
    # A version is never given twice, nor is a second delete an error.
    await bob.delete(f"/room_keys/version/{second}")
    assert await create(bob) not in (first, second)


async def test_a_deleted_backup_is_not_found_with_all_its_keys(bob: Client) -> None:
    version = await create(bob)
    await put(bob, version, {ROOM: {"s": key()}})
    await bob.delete(f"/room_keys/version/{version}")
    query = {"version": version}
    await bob.call("GET", f"/room_keys/version/{version}", expect=404)
    for path in (keys_path(), keys_path(ROOM), keys_path(ROOM, "s")):
        await bob.call("GET", path, query=query, expect=404)
        await bob.call("DELETE", path, query=query, expect=404)
    await bob.call("PUT", keys_path(ROOM, "s"), key(), query=query, expect=404)
    body = {"algorithm": ALGORITHM, "auth_data": AUTH_DATA}
    await bob.call("PUT", f"/room_keys/version/{version}", body, expect=404)


@pytest.mark.parametrize("version", ["999", "0", "-1", "x", "1.0", "9" * 40, "\u0661"])
async def test_unknown_versions_are_not_found(bob: Client, version: str) -> None:
    await create(bob)
    await bob.call("GET", f"/room_keys/version/{quote(version)}", expect=404)
    await bob.call("GET", keys_path(), query={"version": version}, expect=404)
    await bob.call("PUT", keys_path(ROOM, "s"), key(), query={"version": version}, expect=404)
    await bob.call("DELETE", f"/room_keys/version/{quote(version)}", expect=404)


async def test_only_auth_data_of_a_backup_can_be_changed(bob: Client) -> None:
    version = await create(bob)
    path = f"/room_keys/version/{version}"
    changed = {"public_key": "other", "signatures": {}}
    await bob.put(path, {"algorithm": ALGORITHM, "auth_data": changed, "version": version})
    assert (await bob.get(path))["auth_data"] == changed
    for wrong in ({"algorithm": "m.other"}, {"version": "77"}):
        body = {"algorithm": ALGORITHM, "auth_data": AUTH_DATA, **wrong}
        assert (await bob.call("PUT", path, body, expect=400)).errcode == "M_INVALID_PARAM"
    assert (await bob.get(path))["auth_data"] == changed


async def test_a_backup_that_nobody_signed_may_say_so_by_null(bob: Client) -> None:
    body = {"algorithm": ALGORITHM, "auth_data": {"public_key": "abcdefg", "signatures": None}}
    version = (await bob.call("POST", "/room_keys/version", body)).body["version"]
    assert (await bob.get(f"/room_keys/version/{version}"))["auth_data"] == {"public_key": "abcdefg"}


async def test_backups_belong_to_one_user(alice: Client, bob: Client) -> None:
    version = await create(bob)
    await put(bob, version, {ROOM: {"s": key()}})
    await alice.call("GET", "/room_keys/version", expect=404)
    await alice.call("GET", keys_path(), query={"version": version}, expect=404)
    await alice.call("DELETE", f"/room_keys/version/{version}", expect=404)
    assert (await contents(bob, version))["count"] == 1


# Keys


async def test_keys_are_read_as_they_were_written_by_all_three_ways(server: Server, bob: Client) -> None:
    version = await create(bob)
    query = {"version": version}
    odd = 'a/b+c= "é'
    await put(bob, version, {ROOM: {"s1": key(1), "s2": key(2)}})
    await bob.put(keys_path(OTHER_ROOM), {"sessions": {"s1": key(3)}}, query=query)
    await bob.put(keys_path(OTHER_ROOM, odd), key(4, data=odd), query=query)
    expected = {ROOM: {"s1": key(1), "s2": key(2)}, OTHER_ROOM: {"s1": key(3), odd: key(4, data=odd)}}
    await restart(server, bob)
    whole = await bob.get(keys_path(), query=query)
    assert whole == {"rooms": {room: {"sessions": sessions} for room, sessions in expected.items()}}
    for room_id, sessions in expected.items():
        assert await bob.get(keys_path(room_id), query=query) == {"sessions": sessions}
        for session_id, one in sessions.items():
            assert await bob.get(keys_path(room_id, session_id), query=query) == one
    assert (await contents(bob, version))["count"] == 4


async def test_an_empty_backup_has_no_rooms_and_an_unknown_room_no_sessions(bob: Client) -> None:
    query = {"version": await create(bob)}
    assert await bob.get(keys_path(), query=query) == {"rooms": {}}
    assert await bob.get(keys_path(ROOM), query=query) == {"sessions": {}}
    await bob.call("GET", keys_path(ROOM, "s"), query=query, expect=404)


async def test_the_better_key_of_a_session_stays(bob: Client) -> None:
    """Verified first, then the lower index, then fewer forwards."""
    version = await create(bob)
    ladder = [
        key(9, 9, False, "1"),
        key(9, 8, False, "2"),
        key(8, 9, False, "3"),
        key(9, 9, True, "4"),
        key(9, 8, True, "5"),
        key(8, 9, True, "6"),
    ]
    query = {"version": version}
    etags = []
    for better in ladder:
        answer = await bob.put(keys_path(ROOM, "s"), better, query=query)
        etags.append(answer["etag"])
        assert answer["count"] == 1
        assert await bob.get(keys_path(ROOM, "s"), query=query) == better
    assert len(set(etags)) == len(ladder)
    for worse in [*ladder, key(8, 9, True, "the same rank")]:
        answer = await bob.put(keys_path(ROOM, "s"), worse, query=query)
        assert answer == {"etag": etags[-1], "count": 1}
        assert await bob.get(keys_path(ROOM, "s"), query=query) == ladder[-1]


async def test_the_etag_changes_exactly_when_the_keys_do(bob: Client) -> None:
    version = await create(bob)
    seen = [(await contents(bob, version))["etag"]]

    async def changed(answer: Any) -> bool:
        assert answer == await contents(bob, version)
        if answer["etag"] in seen:
            assert answer["etag"] == seen[-1]
            return False
        seen.append(answer["etag"])
        return True

    query = {"version": version}
    assert await changed(await put(bob, version, {ROOM: {"a": key(), "b": key()}, OTHER_ROOM: {"a": key()}}))
    assert not await changed(await put(bob, version, {ROOM: {"a": key(), "b": key(2)}}))
    assert not await changed(await put(bob, version, {}))
    assert await changed(await put(bob, version, {ROOM: {"a": key(), "b": key(0)}}))
    assert not await changed(await bob.delete(keys_path(ROOM, "nosuch"), query=query))
    assert await changed(await bob.delete(keys_path(ROOM, "a"), query=query))
    assert not await changed(await bob.delete(keys_path(ROOM, "a"), query=query))
    assert not await changed(await bob.delete(keys_path("!nosuch:localhost"), query=query))
    assert (await contents(bob, version))["count"] == 2
    assert await changed(await bob.delete(keys_path(OTHER_ROOM), query=query))
    assert (await contents(bob, version))["count"] == 1
    assert await changed(await bob.delete(keys_path(), query=query))
    assert not await changed(await bob.delete(keys_path(), query=query))
    assert (await contents(bob, version))["count"] == 0
    body = {"algorithm": ALGORITHM, "auth_data": {"public_key": "other"}}
    await bob.put(f"/room_keys/version/{version}", body)
    assert not await changed(await contents(bob, version))


async def test_keys_are_stored_in_the_current_backup_only(bob: Client) -> None:
    old, current = await create(bob), await create(bob)
    query = {"version": old}
    for path, body in (
        (keys_path(), {"rooms": {ROOM: {"sessions": {"s": key()}}}}),
        (keys_path(ROOM), {"sessions": {"s": key()}}),
        (keys_path(ROOM, "s"), key()),
    ):
        reply = await bob.call("PUT", path, body, query=query, expect=403)
        assert reply.errcode == "M_WRONG_ROOM_KEYS_VERSION"
        assert reply.body["current_version"] == current
    assert (await contents(bob, old))["count"] == 0


async def test_parallel_changes_are_all_counted(bob: Client) -> None:
    version = await create(bob)
    answers = await asyncio.gather(
        *(put(bob, version, {ROOM: {f"s{n}": key(), f"s{n + 1}": key()}}) for n in range(20))
    )
    assert (await contents(bob, version))["count"] == 21
    # Some may have come when others had brought both of their keys, and changed nothing.
    assert 11 <= len({answer["etag"] for answer in answers}) <= 20
    query = {"version": version}
    await asyncio.gather(*(bob.delete(keys_path(ROOM, f"s{n}"), query=query) for n in range(15)))
    assert (await contents(bob, version))["count"] == 6
    whole = await bob.get(keys_path(), query=query)
    assert sorted(whole["rooms"][ROOM]["sessions"]) == sorted(f"s{n}" for n in range(15, 21))


async def test_of_parallel_keys_for_one_session_the_best_stays(bob: Client) -> None:
    version = await create(bob)
    query = {"version": version}
    await asyncio.gather(*(bob.put(keys_path(ROOM, "s"), key(n), query=query) for n in range(20)))
    assert (await bob.get(keys_path(ROOM, "s"), query=query))["first_message_index"] == 0
    assert (await contents(bob, version))["count"] == 1


async def test_thousands_of_keys_are_paged_through(bob: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_backup, "PAGE", 7)
    version = await create(bob)
    rooms = {f"!r{n}:localhost": {f"s{m}": key(m) for m in range(n)} for n in range(1, 20)}
    answer = await put(bob, version, rooms)
    assert answer["count"] == sum(map(len, rooms.values()))
    whole = (await bob.get(keys_path(), query={"version": version}))["rooms"]
    assert {room: found["sessions"] for room, found in whole.items()} == rooms


async def test_a_change_cut_short_is_made_good(server: Server, bob: Client) -> None:
    """HARDENING 46: the keys were written, their count was not."""
    version = await create(bob)
    await put(bob, version, {ROOM: {"a": key(), "b": key()}})
    backups = server.app.store.collection(BACKUPS)
    record = await backups.get(bob.user_id, int(version))
    assert record is not None
    await backups.replace_if(record, replace(record, count=0, changing_until=1))
    first = await contents(bob, version)
    assert first["count"] == 2
    assert first["etag"] != str(record.etag)
    assert await contents(bob, version) == first
    assert (await put(bob, version, {ROOM: {"c": key()}}))["count"] == 3


async def test_while_another_changes_a_backup_nobody_else_does(
    server: Server, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_backup, "WAIT_SECONDS", 0.01)
    version = await create(bob)
    backups = server.app.store.collection(BACKUPS)
    record = await backups.get(bob.user_id, int(version))
    assert record is not None
    marked = replace(record, changing_until=2**52)
    await backups.replace_if(record, marked)
    await bob.call("PUT", keys_path(ROOM, "s"), key(), query={"version": version}, expect=503)
    assert (await contents(bob, version))["count"] == 0
    waiting = asyncio.create_task(put(bob, version, {ROOM: {"s": key()}}))
    await asyncio.sleep(0.05)
    await backups.replace_if(marked, record)
    assert (await waiting)["count"] == 1


# Limits


@pytest.mark.parametrize(
    "change",
    [
        {"first_message_index": -1},
        {"first_message_index": "1"},
        {"first_message_index": 1.5},
        {"first_message_index": 2**60},
        {"first_message_index": None},
        {"forwarded_count": -1},
        {"forwarded_count": True},
        {"is_verified": 1},
        {"is_verified": None},
        {"session_data": "x"},
        {"session_data": None},
        {"session_data": {"x": "y" * 20_000}},
    ],
)
async def test_malformed_keys_are_refused_and_none_is_stored(bob: Client, change: dict[str, Any]) -> None:
    version = await create(bob)
    query = {"version": version}
    bad = {**key(), **change}
    for path, body in (
        (keys_path(), {"rooms": {ROOM: {"sessions": {"good": key(), "bad": bad}}}}),
        (keys_path(ROOM), {"sessions": {"good": key(), "bad": bad}}),
        (keys_path(ROOM, "bad"), bad),
    ):
        reply = await bob.call("PUT", path, body, query=query, expect=None)
        assert reply.status in (400, 413)
    assert (await contents(bob, version))["count"] == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (keys_path(), {}),
        (keys_path(), {"rooms": []}),
        (keys_path(), {"rooms": {ROOM: {}}}),
        (keys_path(), {"rooms": {ROOM: {"sessions": []}}}),
        (keys_path(), {"rooms": {"noroom": {"sessions": {"s": key()}}}}),
        (keys_path(), {"rooms": {ROOM: {"sessions": {"": key()}}}}),
        (keys_path(), {"rooms": {ROOM: {"sessions": {"s" * 300: key()}}}}),
        (keys_path(ROOM), {}),
        (keys_path("noroom"), {"sessions": {"s": key()}}),
        (keys_path(ROOM, "s"), {}),
        (keys_path(ROOM, "s" * 300), key()),
    ],
)
async def test_bodies_of_wrong_types_are_refused(bob: Client, path: str, body: Any) -> None:
    version = await create(bob)
    await bob.call("PUT", path, body, query={"version": version}, expect=400)
    await bob.call("PUT", path, body, expect=400)
    assert (await contents(bob, version))["count"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"algorithm": ALGORITHM},
        {"auth_data": AUTH_DATA},
        {"algorithm": 1, "auth_data": AUTH_DATA},
        {"algorithm": "", "auth_data": AUTH_DATA},
        {"algorithm": "x" * 300, "auth_data": AUTH_DATA},
        {"algorithm": ALGORITHM, "auth_data": []},
        {"algorithm": ALGORITHM, "auth_data": {}},
        {"algorithm": ALGORITHM, "auth_data": {"public_key": 1}},
        {"algorithm": ALGORITHM, "auth_data": {"public_key": "x", "signatures": []}},
        {"algorithm": ALGORITHM, "auth_data": {**AUTH_DATA, "x": "y" * 70_000}},
    ],
)
async def test_malformed_backups_are_refused(bob: Client, body: Any) -> None:
    reply = await bob.call("POST", "/room_keys/version", body, expect=None)
    assert reply.status in (400, 413)
    await bob.call("GET", "/room_keys/version", expect=404)


async def test_so_many_backups_and_keys_and_no_more(bob: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """HARDENING 14: growth by small writes."""
    versions = [await create(bob) for _ in range(key_backup.MAX_BACKUPS)]
    body = {"algorithm": ALGORITHM, "auth_data": AUTH_DATA}
    await bob.call("POST", "/room_keys/version", body, expect=400)
    await bob.delete(f"/room_keys/version/{versions[0]}")
    version = await create(bob)
    monkeypatch.setattr(key_backup, "MAX_KEYS", 3)
    await put(bob, version, {ROOM: {"a": key(), "b": key()}})
    too_many = {"rooms": {ROOM: {"sessions": {"c": key(), "d": key()}}}}
    await bob.call("PUT", keys_path(), too_many, query={"version": version}, expect=400)
    assert (await put(bob, version, {ROOM: {"a": key(0), "c": key()}}))["count"] == 3
