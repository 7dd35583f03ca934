"""Receipts and account data that newer ones took the place of leave the store, and nobody notices."""

from typing import Any
from urllib.parse import quote

from storage.log import Kind
from tests.client_api.conftest import Client, Server

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


async def remove(server: Server) -> None:
    """What was superseded up to now goes."""
    for consumer in (*server.app.ground.consumers, *server.app.ground.user_consumers):
        for shard in (*server.app.rooms.writers, *server.app.users.writers):
            if consumer.name == "superseded" and shard in consumer.lag():
                await consumer.settled(shard)
    for _ in range(2):
        await server.app.conversations.superseded.remove()


async def stored(server: Server, stream: str, kind: Kind) -> list[tuple[str | None, str | None, bytes]]:
    shards = server.app.rooms.shards
    shard = shards.of_room(stream) if kind is Kind.RECEIPT else shards.of_user(stream)
    entries = await server.app.store.log.page(shard, stream, kind=kind, limit=1000)
    return [(entry.type, entry.key, entry.body or entry.meta) for entry in entries]


def receipts(sync: Any, room_id: str) -> dict[str, Any]:
    events = sync["rooms"]["join"][room_id]["ephemeral"]["events"]
    found: dict[str, Any] = next(event["content"] for event in events if event["type"] == "m.receipt")
    return found


async def test_only_the_newest_receipts_stay_stored(server: Server, alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    sent = [await alice.send(room_id, f"{n}") for n in range(8)]
    tokens = [(await alice.sync())["next_batch"]]
    for event_id in sent:
        await bob.post(f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}")
        tokens.append((await alice.sync())["next_batch"])
    await bob.post(f"/rooms/{quote(room_id)}/receipt/m.read/{quote(sent[3])}", {"thread_id": "main"})
    await alice.post(f"/rooms/{quote(room_id)}/receipt/m.read.private/{quote(sent[0])}")
    assert len(await stored(server, room_id, Kind.RECEIPT)) == 10
    await remove(server)
    assert {key[:2] for key in await stored(server, room_id, Kind.RECEIPT)} == {
        ("m.read", bob.user_id),
        ("m.read main", bob.user_id),
        ("m.read.private", alice.user_id),
    }
    for restarted in (False, True):
        if restarted:
            await server.restart()
        for token in tokens[:-1]:
            shown = receipts(await alice.sync(since=token), room_id)
            assert shown[sent[7]]["m.read"][bob.user_id]["ts"] > 0
            assert shown[sent[3]]["m.read"][bob.user_id]["thread_id"] == "main"
        assert set(receipts(await alice.sync(full=True), room_id)) == {sent[0], sent[3], sent[7]}


async def test_only_the_newest_account_data_stays_stored(server: Server, alice: Client) -> None:
    room_id = await alice.create_room()
    mine = f"/user/{quote(alice.user_id)}"
    token = (await alice.sync())["next_batch"]
    for n in range(5):
        await alice.put(f"{mine}/account_data/org.example.a", {"n": n})
        await alice.put(f"{mine}/account_data/org.example.b", {"n": n})
        await alice.put(f"{mine}/rooms/{quote(room_id)}/account_data/org.example.a", {"room": n})
    await alice.put(f"{mine}/account_data/org.example.b", {})
    await remove(server)
    assert await stored(server, alice.user_id, Kind.ACCOUNT_DATA) == [
        ("org.example.a", "", b'{"n":4}'),
        ("org.example.a", room_id, b'{"room":4}'),
        ("org.example.b", "", b"{}"),
    ]
    for restarted in (False, True):
        if restarted:
            await server.restart()
        sync = await alice.sync(since=token)
        events = {event["type"]: event["content"] for event in sync["account_data"]["events"]}
        assert (events["org.example.a"], events["org.example.b"]) == ({"n": 4}, {})
        in_room = sync["rooms"]["join"][room_id]["account_data"]["events"]
        assert in_room == [{"type": "org.example.a", "content": {"room": 4}}]
        assert await alice.get(f"{mine}/account_data/org.example.a") == {"n": 4}
        extensions = {"extensions": {"account_data": {"enabled": True}}}
        told = (await alice.post(SLIDING, extensions))["extensions"]["account_data"]["global"]
        assert {"type": "org.example.a", "content": {"n": 4}} in told


async def test_a_value_has_a_minute_before_what_it_replaced_goes(server: Server, alice: Client) -> None:
    """Whoever read what was current just before still finds it."""
    path = f"/user/{quote(alice.user_id)}/account_data/org.example.a"
    await alice.put(path, {"n": 1})
    await alice.put(path, {"n": 2})
    for consumer in server.app.ground.user_consumers:
        for shard in server.app.users.writers:
            await consumer.settled(shard)
    await server.app.conversations.superseded.remove()
    assert len(await stored(server, alice.user_id, Kind.ACCOUNT_DATA)) == 2
    await alice.put(path, {"n": 3})
    await remove(server)
    assert [body for _, _, body in await stored(server, alice.user_id, Kind.ACCOUNT_DATA)] == [b'{"n":3}']


async def test_what_was_not_removed_before_a_crash_goes_with_the_next_value(
    server: Server, alice: Client
) -> None:
    path = f"/user/{quote(alice.user_id)}/account_data/org.example.a"
    for n in range(6):
        await alice.put(path, {"n": n})
    await server.restart()
    await remove(server)
    await alice.put(path, {"n": 6})
    await remove(server)
    assert [body for _, _, body in await stored(server, alice.user_id, Kind.ACCOUNT_DATA)] == [b'{"n":6}']
