"""Whatever a client does, its next request may reach another replica."""

import asyncio
from typing import Any

import pytest

from tests.client_api.conftest import Client
from tests.client_api.crypto_device import ALGORITHM, CrossSigner, CryptoDevice, public
from tests.two_replicas.conftest import SHARDS, Replicas


def events_in(body: Any, room_id: str) -> list[str]:
    """The events of a room's timeline in a sync's answer."""
    room = body.get("rooms", {}).get("join", {}).get(room_id, {})
    return [event["event_id"] for event in room.get("timeline", {}).get("events", [])]


# --- Sessions ------------------------------------------------------------------------------------------


async def test_logging_out_at_one_ends_the_token_at_the_other(replicas: Replicas, alice: Client) -> None:
    at_b = replicas.at_b(alice)
    await at_b.get("/account/whoami")
    await alice.post("/logout")
    assert (await at_b.call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"


async def test_logging_out_at_one_ends_a_poll_at_the_other(replicas: Replicas, alice: Client) -> None:
    at_b = replicas.at_b(alice)
    await at_b.sync()
    query = {"timeout": 20_000, "since": at_b.next_batch}
    poll = asyncio.create_task(at_b.call("GET", "/sync", query=query, expect=401))
    await asyncio.sleep(0.1)
    await alice.post("/logout")
    assert (await asyncio.wait_for(poll, 5)).errcode == "M_UNKNOWN_TOKEN"


async def test_a_device_that_is_gone_was_never_seen(replicas: Replicas, alice: Client) -> None:
    """What the other replica was about to write of it is dropped."""
    body = {
        "type": "m.login.password",
        "user": "alice",
        "password": "correct horse",
        "device_id": "PHONE",
    }
    phone = replicas.at_b(alice)
    phone.token = (await alice.post("/login", body))["access_token"]
    await phone.get("/account/whoami")
    await replicas.at(replicas.a, phone).post("/logout")
    for replica in (replicas.a, replicas.b):
        await replica.app.people.last_seen.write()
    await alice.post("/login", body)
    device = await alice.get("/devices/PHONE")
    assert "last_seen_ts" not in device


async def test_confirmation_begun_at_one_ends_at_the_other(replicas: Replicas, alice: Client) -> None:
    change = {"new_password": "battery staple"}
    begun = await alice.call("POST", "/account/password", change, expect=401)
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "alice"},
        "password": "correct horse",
        "session": begun.body["session"],
    }
    await replicas.at_b(alice).post("/account/password", {**change, "auth": auth})
    again = await alice.call("POST", "/account/password", {**change, "auth": auth}, expect=401)
    assert again.errcode


async def test_a_login_token_of_one_is_good_at_the_other_once(replicas: Replicas, alice: Client) -> None:
    auth = {"type": "m.login.password", "user": "alice", "password": "correct horse"}
    token = (await alice.post("/_matrix/client/v1/login/get_token", {"auth": auth}))["login_token"]
    login = {"type": "m.login.token", "token": token}
    await replicas.at_b(alice).post("/login", login)
    await alice.call("POST", "/login", login, expect=403)


# --- Events --------------------------------------------------------------------------------------------


async def test_a_transaction_repeated_at_the_other_makes_no_second_event(
    replicas: Replicas, room: str, alice: Client
) -> None:
    sent = [
        await replicas.at(replica, alice).send(room, "once", txn="t")
        for replica in (replicas.a, replicas.b, replicas.a)
    ]
    assert len(set(sent)) == 1
    chunk = (await alice.get(f"/rooms/{room}/messages", query={"dir": "b", "limit": 3}))["chunk"]
    assert [event["content"].get("body") for event in chunk].count("once") == 1


async def test_hopping_between_replicas_loses_and_doubles_nothing(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    hopping = [replicas.at(replica, bob) for replica in (replicas.a, replicas.b)]
    await bob.sync()
    token, sent, seen = bob.next_batch, [], []
    for number in range(12):
        sender = replicas.at((replicas.a, replicas.b)[number // 2 % 2], alice)
        sent.append(await sender.send(room, str(number), txn=f"hop{number}"))
        client = hopping[number % 2]
        client.next_batch = token
        seen += events_in(await client.sync(), room)
        token = client.next_batch
    assert seen == sent


async def test_a_poll_at_one_wakes_for_a_message_at_the_other(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    await bob.sync()
    poll = asyncio.create_task(bob.sync(timeout=20_000))
    await asyncio.sleep(0.1)
    event_id = await alice.send(room)
    assert events_in(await asyncio.wait_for(poll, 5), room) == [event_id]


async def test_a_poll_wakes_for_a_room_that_memory_has_no_place_for(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    await bob.sync()
    poll = asyncio.create_task(bob.sync(timeout=20_000))
    await asyncio.sleep(0.1)
    b = replicas.b.app
    b.rooms.drop(room)
    b.users.max_users = 1
    for name in ("carol", "dan"):
        await b.users.get(f"@{name}:localhost")
    event_id = await alice.send(room)
    assert events_in(await asyncio.wait_for(poll, 5), room) == [event_id]


async def test_a_poll_wakes_for_a_room_entered_since_that_memory_has_no_place_for(
    replicas: Replicas, alice: Client, bob: Client
) -> None:
    await bob.sync()
    entered = await alice.create_room(preset="public_chat")
    await replicas.at(replicas.a, bob).join(entered)
    await bob.sync()
    poll = asyncio.create_task(bob.sync(timeout=20_000))
    await asyncio.sleep(0.1)
    replicas.b.app.rooms.drop(entered)
    event_id = await alice.send(entered)
    assert events_in(await asyncio.wait_for(poll, 5), entered) == [event_id]


# --- What users keep -----------------------------------------------------------------------------------


async def test_account_data_of_one_is_read_and_synced_at_the_other(replicas: Replicas, alice: Client) -> None:
    at_b = replicas.at_b(alice)
    await at_b.sync()
    path = f"/user/{alice.user_id}/account_data/org.example.note"
    for text in ("first", "second"):
        await alice.put(path, {"text": text})
        assert await at_b.get(path) == {"text": text}
        changed = (await at_b.sync(timeout=5_000))["account_data"]["events"]
        assert {"type": "org.example.note", "content": {"text": text}} in changed


async def test_account_data_changed_at_one_is_changed_back_at_the_other(
    replicas: Replicas, alice: Client
) -> None:
    """Somebody flips a switch there and back, before the other replica has heard of the first."""
    at_b = replicas.at_b(alice)
    assert replicas.b.app.ground.replica.owns(SHARDS.of_user(alice.user_id))
    path = f"/user/{alice.user_id}/account_data/org.example.switch"
    await alice.put(path, {"on": False})
    replicas.exchange.hold(True)
    await at_b.put(path, {"on": True})
    await alice.put(path, {"on": False})
    assert await at_b.get(path) == {"on": False}


async def test_a_filter_of_one_is_known_to_the_other(replicas: Replicas, room: str, alice: Client) -> None:
    content = {"room": {"rooms": []}}
    filter_id = (await alice.post(f"/user/{alice.user_id}/filter", content))["filter_id"]
    body = await replicas.at_b(alice).get("/sync", query={"filter": filter_id})
    assert "join" not in body.get("rooms", {})


async def test_a_profile_of_one_is_shown_at_the_other(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    await bob.sync()
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    assert (await bob.get(f"/profile/{alice.user_id}/displayname"))["displayname"] == "Alice"


async def test_media_of_one_is_downloaded_from_the_other(replicas: Replicas, alice: Client) -> None:
    sent = await alice.post("/_matrix/media/v3/upload", data=b"bytes", headers={"Content-Type": "text/plain"})
    path = "/_matrix/client/v1/media/download/" + sent["content_uri"].removeprefix("mxc://")
    assert await replicas.at_b(alice).get(path) == b"bytes"


async def test_who_waits_at_one_for_media_gets_it_when_it_comes_to_the_other(
    replicas: Replicas, alice: Client
) -> None:
    uri = (await alice.post("/_matrix/media/v1/create"))["content_uri"].removeprefix("mxc://")
    path = "/_matrix/client/v1/media/download/" + uri
    download = asyncio.create_task(replicas.at_b(alice).get(path, query={"timeout_ms": 20_000}))
    await asyncio.sleep(0.1)
    await alice.call(
        "PUT", f"/_matrix/media/v3/upload/{uri}", data=b"late", headers={"Content-Type": "text/plain"}
    )
    assert await asyncio.wait_for(download, 5) == b"late"


# --- Encryption ----------------------------------------------------------------------------------------


async def test_keys_uploaded_by_way_of_either_all_count_once(replicas: Replicas, alice: Client) -> None:
    device = CryptoDevice(alice)
    uploads = [device.one_time_keys(5) for _ in range(4)]
    at = [replicas.at(replica, alice) for replica in (replicas.a, replicas.b)]
    for number, keys in enumerate(uploads):
        for client in (at[number % 2], at[1 - number % 2]):
            answer = await client.post("/keys/upload", {"one_time_keys": keys})
            assert answer["one_time_key_counts"] == {ALGORITHM: 5 * (number + 1)}


async def test_a_name_that_a_key_took_at_the_other_replica_is_taken(
    replicas: Replicas, alice: Client
) -> None:
    """The replica where a device logged in takes it for one without keys."""
    uploads = ({f"{ALGORITHM}:A": {"key": key, "signatures": {}}} for key in ("first", "second"))
    await replicas.at_b(alice).post("/keys/upload", {"one_time_keys": next(uploads)})
    await alice.call("POST", "/keys/upload", {"one_time_keys": next(uploads)}, expect=400)
    assert await alice.post("/keys/upload", {}) == {"one_time_key_counts": {ALGORITHM: 1}}


async def test_keys_dropped_at_the_other_replica_may_be_uploaded_again(
    replicas: Replicas, alice: Client
) -> None:
    """They went with the identity that the device had."""
    device = CryptoDevice(alice)
    keys = device.one_time_keys(3)
    await alice.post("/keys/upload", {"device_keys": device.device_keys(), "one_time_keys": keys})
    await CryptoDevice(replicas.at_b(alice), number=2).upload()
    answer = await alice.post("/keys/upload", {"one_time_keys": keys})
    assert answer["one_time_key_counts"] == {ALGORITHM: 3}


async def test_keys_uploaded_at_one_are_signed_at_the_other(replicas: Replicas, alice: Client) -> None:
    """Clients do both at once, before the other replica has heard of the keys."""
    at_b = replicas.at_b(alice)
    assert replicas.b.app.ground.replica.owns(SHARDS.of_user(alice.user_id))
    device, signer = CryptoDevice(at_b), CrossSigner(alice.user_id)
    await CryptoDevice(alice).query(alice.user_id)
    replicas.exchange.hold(True)
    keys = device.device_keys()
    await at_b.post("/keys/upload", {"device_keys": keys})
    await at_b.post("/keys/device_signing/upload", signer.upload())
    signed = {alice.user_id: {alice.device_id: signer.sign_device(keys)}}
    assert await alice.post("/keys/signatures/upload", signed) == {"failures": {}}


async def test_keys_uploaded_at_one_are_signed_by_others_at_the_other(
    replicas: Replicas, bob: Client
) -> None:
    """Who verifies somebody was shown their keys at whichever replica."""
    elsewhere = (n for n in range(99) if SHARDS.of_user(f"@u{n}:localhost") != SHARDS.of_user(bob.user_id))
    alice = await replicas.client().register(f"u{next(elsewhere)}")
    alices, bobs = CrossSigner(alice.user_id, 1), CrossSigner(bob.user_id, 2)
    await bob.post("/keys/device_signing/upload", bobs.upload())
    await CryptoDevice(bob).query(alice.user_id)
    replicas.exchange.hold(True)
    await alice.post("/keys/device_signing/upload", alices.upload())
    signed = {alice.user_id: {public(alices.master): bobs.sign_user(alices.master_key())}}
    assert await bob.post("/keys/signatures/upload", signed) == {"failures": {}}


async def test_keys_claimed_at_one_are_counted_at_the_other(
    replicas: Replicas, alice: Client, bob: Client
) -> None:
    keys = {f"signed_curve25519:{n}": {"key": f"k{n}", "signatures": {}} for n in range(3)}
    await alice.post("/keys/upload", {"one_time_keys": keys})
    count = "device_one_time_keys_count"
    assert (await alice.sync())[count] == {"signed_curve25519": 3}
    wanted = {"one_time_keys": {alice.user_id: {alice.device_id: "signed_curve25519"}}}
    claimed = [await client.post("/keys/claim", wanted) for client in (bob, replicas.at(replicas.a, bob))]
    handed_out = [tuple(c["one_time_keys"][alice.user_id][alice.device_id]) for c in claimed]
    assert len(set(handed_out)) == 2
    for client in (alice, replicas.at_b(alice)):
        assert (await client.sync())[count] == {"signed_curve25519": 1}


async def test_messages_for_a_device_come_once_wherever_it_asks(
    replicas: Replicas, alice: Client, bob: Client
) -> None:
    """An older token at another replica acknowledges no more than it says."""

    async def send(number: int) -> None:
        messages = {"messages": {bob.user_id: {bob.device_id: {"n": number}}}}
        await alice.put(f"/sendToDevice/org.example.note/m{number}", messages)

    def numbers(body: Any) -> list[int]:
        return [event["content"]["n"] for event in body.get("to_device", {}).get("events", [])]

    at_a = replicas.at(replicas.a, bob)
    await bob.sync()
    await send(1)
    assert numbers(await bob.sync(timeout=5_000)) == [1]
    before = bob.next_batch
    await send(2)
    at_a.next_batch = before
    assert numbers(await at_a.sync(timeout=5_000)) == [2]
    assert numbers(await at_a.sync()) == []
    # The answer of A was lost after all: the client asks B with its older token.
    bob.next_batch = before
    assert numbers(await bob.sync()) == [2]
    assert numbers(await bob.sync()) == []
    await send(3)
    assert numbers(await bob.sync(timeout=5_000)) == [3]
    assert numbers(await bob.sync()) == []
    # The client begins anew at A, some seconds later.
    await replicas.b.app.syncing.to_device.write()
    assert numbers(await at_a.sync(full=True)) == []
    await send(4)
    assert numbers(await at_a.sync(full=True)) == [4]


async def test_queue_is_full_by_what_waits_not_by_what_was_sent(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch, alice: Client, bob: Client
) -> None:
    """The replica that stores the messages is not the one that hands them out."""
    monkeypatch.setattr("homeserver.sync.to_device.MAX_WAITING", 4)
    await bob.sync()
    for number in range(20):
        messages = {"messages": {bob.user_id: {bob.device_id: {"n": number}}}}
        await alice.put(f"/sendToDevice/org.example.note/m{number}", messages)
        body = await bob.sync(timeout=5_000)
        assert [event["content"]["n"] for event in body["to_device"]["events"]] == [number]
        await bob.sync()


async def test_lazy_members_are_sent_again_to_a_device_that_began_anew_at_the_other(
    replicas: Replicas, room: str, alice: Client, bob: Client
) -> None:
    lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    await alice.set_state(room, "m.room.name", {"name": "named after nobody"})
    await alice.send(room, "first")
    first = await bob.sync(filter=lazy, full=True)
    assert alice.user_id in members_in(first, room)
    # The client forgets everything, and begins at A.
    anew = replicas.at(replicas.a, bob)
    await bob.send(room, "of my own")
    began = await anew.sync(filter=lazy, full=True)
    assert alice.user_id not in members_in(began, room)
    await alice.send(room, "second")
    bob.next_batch = anew.next_batch
    assert alice.user_id in members_in(await bob.sync(filter=lazy), room)


def members_in(body: Any, room_id: str) -> set[str]:
    room = body["rooms"]["join"][room_id]
    return {event["state_key"] for event in room["state"]["events"] if event["type"] == "m.room.member"}
