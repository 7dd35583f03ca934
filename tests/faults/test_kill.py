"""`kill -9` at any moment loses nothing that was acknowledged, and doubles nothing (HARDENING 40, 46)."""

import asyncio
import os
import random
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from tests.client_api.conftest import Client
from tests.server_process import ServerProcess

ROUNDS = int(os.environ.get("TEST_KILL_ROUNDS", "50"))
SEED = int(os.environ.get("TEST_KILL_SEED", "20261121"))
SENDERS = 8
SENDERS_PER_ROOM = 4


class Sender:
    """Sends numbered messages one after another, repeating what got no answer under the same id."""

    def __init__(self, client: Client, room_id: str, name: str) -> None:
        self.client = client
        self.room_id = room_id
        self.name = name
        self.number = 0
        self.acknowledged: dict[int, str] = {}
        self.tokens: list[tuple[str, int]] = []
        """Since-tokens the server gave out, with the newest own message that they cover."""

    async def run(self) -> None:
        """Until the server is gone."""
        try:
            while True:
                event_id = await self.client.send(
                    self.room_id, f"{self.name}/{self.number}", txn=f"{self.name}-{self.number}"
                )
                self.acknowledged[self.number] = event_id
                self.number += 1
                if self.number % 10 == 0:
                    body = await self.client.sync(full=True, filter={"room": {"timeline": {"limit": 1}}})
                    self.tokens.append((body["next_batch"], self.number - 1))
        except (TimeoutError, aiohttp.ClientError, ConnectionError):
            return


async def timeline_of(client: Client, room_id: str) -> list[dict[str, Any]]:
    """All messages of a room, oldest first."""
    events: list[dict[str, Any]] = []
    query: dict[str, Any] = {"dir": "f", "limit": 500}
    while True:
        page = await client.get(f"/rooms/{room_id}/messages", query=query)
        events += page["chunk"]
        if "end" not in page:
            return [event for event in events if event["type"] == "m.room.message"]
        query["from"] = page["end"]


async def check(sender: Sender, timeline: list[dict[str, Any]]) -> None:
    """Every acknowledged message exactly once, in order; nothing of this sender twice."""
    own = [e for e in timeline if e["content"]["body"].startswith(f"{sender.name}/")]
    numbers = [int(e["content"]["body"].partition("/")[2]) for e in own]
    assert numbers == sorted(set(numbers)), f"{sender.name}: doubled or out of order"
    by_number = {number: event["event_id"] for number, event in zip(numbers, own, strict=True)}
    for number, event_id in sender.acknowledged.items():
        assert by_number.get(number) == event_id, f"{sender.name}/{number} was answered 200 and is gone"
    if sender.tokens:
        token, covered = sender.tokens[-1]
        body = await sender.client.get(
            "/sync", query={"since": token, "filter": '{"room":{"timeline":{"limit":5000}}}'}
        )
        joined = body.get("rooms", {}).get("join", {}).get(sender.room_id)
        events = joined["timeline"]["events"] if joined is not None else []
        later = [e for e in events if e.get("content", {}).get("body", "").startswith(f"{sender.name}/")]
        shown = [int(e["content"]["body"].partition("/")[2]) for e in later]
        assert shown == [n for n in numbers if n > covered], f"{sender.name}: an old token skips or repeats"


async def test_whoever_typed_when_the_server_was_killed_can_cease_to(tmp_path: Path) -> None:
    """Clients show who types until they are told otherwise."""
    server = ServerProcess(tmp_path)
    server.start()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as http:
            alice, bob = [await Client(server.url, http).register(name) for name in ("alice", "bob")]
            room_id = await alice.create_room(preset="public_chat")
            await bob.join(room_id)
            path = f"/rooms/{quote(room_id)}/typing/{bob.user_id}"
            await bob.put(path, {"typing": True, "timeout": 60_000})
            told = (await alice.sync())["rooms"]["join"][room_id]["ephemeral"]["events"]
            assert told == [{"type": "m.typing", "content": {"user_ids": [bob.user_id]}}]
            server.kill()
            server.start()
            for expected in ([{"type": "m.typing", "content": {"user_ids": []}}], None):
                await bob.put(path, {"typing": False})
                section = (await alice.sync()).get("rooms", {}).get("join", {}).get(room_id)
                assert (section["ephemeral"]["events"] if section else None) == expected
    finally:
        server.kill()


async def test_kill_at_random_moments_sends_every_delayed_event_once(tmp_path: Path) -> None:
    """MSC4140: what was scheduled is sent, be it right after a crash; what was cancelled is not."""
    random_moment = random.Random(SEED)
    server = ServerProcess(tmp_path)
    server.start()
    delayed = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as http:
            alice = await Client(server.url, http).register("alice")
            room_id = await alice.create_room()
            waiting: dict[str, str] = {}
            cancelled: set[str] = set()
            number = 0

            async def schedule() -> None:
                """Until the server is gone, repeating what got no answer; cancel some when they are due."""
                nonlocal number
                try:
                    while len(waiting) < 90:
                        content = {"msgtype": "m.text", "body": str(number)}
                        query = {"org.matrix.msc4140.delay": random_moment.randrange(20, 600)}
                        path = f"/rooms/{room_id}/send/m.room.message/{number}"
                        delay_id = (await alice.put(path, content, query=query))["delay_id"]
                        waiting[delay_id] = str(number)
                        number += 1
                        if number % 5 == 0:
                            oldest = next(iter(waiting))
                            reply = await alice.call("POST", f"{delayed}/{oldest}/cancel", {}, expect=None)
                            if reply.status == 200:
                                cancelled.add(waiting.pop(oldest))
                except (TimeoutError, aiohttp.ClientError, ConnectionError):
                    return

            async def settle() -> None:
                """Look for what was sent meanwhile."""
                for delay_id in list(waiting):
                    event = await alice.get(f"{delayed}/{delay_id}")
                    if "finalised_ts" in event:
                        path = f"/rooms/{room_id}/event/{quote(event['event_id'])}"
                        assert (await alice.get(path))["content"]["body"] == waiting.pop(delay_id)

            for _ in range(max(ROUNDS // 5, 2)):
                running = asyncio.create_task(schedule())
                await asyncio.sleep(random_moment.uniform(0.1, 0.6))
                await asyncio.to_thread(server.kill)
                await running
                await asyncio.to_thread(server.start)
                await settle()
            async with asyncio.timeout(30):
                while waiting:
                    await settle()
            bodies = [event["content"]["body"] for event in await timeline_of(alice, room_id)]
            assert len(bodies) == len(set(bodies)), "sent twice"
            assert cancelled.isdisjoint(bodies)
            print(f"{number} events were delayed, {len(cancelled)} of them cancelled (seed {SEED})")
            assert len(bodies) > 10
            assert cancelled
    finally:
        server.stop()


async def test_kill_at_random_moments_loses_and_doubles_nothing(tmp_path: Path) -> None:
    random_moment = random.Random(SEED)
    server = ServerProcess(tmp_path, WEFT_LIMITS_MAX_SYNC_TIMELINE="5000")
    server.start()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as http:
            clients = [await Client(server.url, http).register(f"u{n}") for n in range(SENDERS)]
            rooms = []
            for n in range(0, SENDERS, SENDERS_PER_ROOM):
                rooms.append(await clients[n].create_room(preset="public_chat"))
                for other in clients[n + 1 : n + SENDERS_PER_ROOM]:
                    await other.join(rooms[-1])
            senders = [
                Sender(client, rooms[n // SENDERS_PER_ROOM], f"s{n}") for n, client in enumerate(clients)
            ]
            for _ in range(ROUNDS):
                running = [asyncio.create_task(sender.run()) for sender in senders]
                await asyncio.sleep(random_moment.uniform(0.02, 0.4))
                await asyncio.to_thread(server.kill)
                await asyncio.gather(*running)
                await asyncio.to_thread(server.start)
                for n, room_id in enumerate(rooms):
                    timeline = await timeline_of(clients[n * SENDERS_PER_ROOM], room_id)
                    for sender in senders[n * SENDERS_PER_ROOM : (n + 1) * SENDERS_PER_ROOM]:
                        await check(sender, timeline)
            total = sum(len(sender.acknowledged) for sender in senders)
            print(f"{ROUNDS} kills survived, {total} acknowledged events all there (seed {SEED})")
            assert total > ROUNDS
    finally:
        server.stop()
