"""kill -9 of servers that talk to each other: what was acknowledged anywhere is everywhere at last, once."""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from tests.client_api.conftest import Client
from tests.federation_transport.network import CA, new_address
from tests.server_process import ServerProcess

ROUNDS = int(os.environ.get("TEST_FEDERATION_KILL_ROUNDS", "3"))
SEED = int(os.environ.get("TEST_KILL_SEED", "20261121"))
ROOMS = 3
PATIENCE_SECONDS = 60.0


class Peer(ServerProcess):
    """A server that others reach by TLS on an address of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.name = new_address()
        issued = CA.issue_cert(self.name)
        certificate, key, authority = folder / "certificate.pem", folder / "key.pem", folder / "ca.pem"
        certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        CA.cert_pem.write_to_path(authority)
        super().__init__(
            folder,
            WEFT_SERVER_NAME=self.name,
            WEFT_FEDERATION_LISTEN=f"{self.name}:8448",
            WEFT_FEDERATION_TLS_CERTIFICATE=str(certificate),
            WEFT_FEDERATION_TLS_KEY=str(key),
            WEFT_EGRESS_ALLOW_NETWORKS="127.0.0.0/8",
            WEFT_EGRESS_CA=str(authority),
        )


class Talker:
    """Says numbers in a room as long as the server answers; remembers those that were acknowledged."""

    def __init__(self, client: Client, room_id: str) -> None:
        self.client = client
        self.room_id = room_id
        self.acknowledged: list[str] = []
        self._next = 0

    async def run(self) -> None:
        try:
            while True:
                self._next += 1
                body = f"{self.client.user_id}/{self._next}"
                path = f"/rooms/{quote(self.room_id)}/send/m.room.message/{self._next}"
                await self.client.put(path, {"msgtype": "m.text", "body": body})
                self.acknowledged.append(body)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return


async def said(client: Client, room_id: str) -> list[str]:
    """All that was said in a room, as a client sees it, the oldest first."""
    found: list[str] = []
    start = ""
    while True:
        query = {"dir": "b", "limit": "500", **({"from": start} if start else {})}
        page = await client.get(f"/rooms/{quote(room_id)}/messages", query=query)
        found += [event["content"]["body"] for event in page["chunk"] if event["type"] == "m.room.message"]
        start = page.get("end", "")
        if not start or not page["chunk"]:
            return found[::-1]


@pytest.fixture
async def peers(tmp_path: Path) -> AsyncIterator[list[Peer]]:
    """Two that run."""
    peers = [Peer(tmp_path / "one"), Peer(tmp_path / "two")]
    try:
        await asyncio.gather(*(asyncio.to_thread(peer.start) for peer in peers))
        yield peers
    finally:
        for peer in peers:
            peer.stop()


async def surely(client: Client, path: str, **options: Any) -> None:
    """POST until it is answered 200."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (reply := await client.call("POST", path, expect=None, **options)).status != 200:
        assert time.monotonic() < until, reply
        await asyncio.sleep(0.5)


async def test_a_join_in_which_a_server_is_killed_can_be_made_again(peers: list[Peer]) -> None:
    choose = random.Random(SEED)
    settings = [{"type": "test.setting", "state_key": str(n), "content": {"n": n}} for n in range(100)]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as http:
        host, guest = [await Client(peer.url, http).register("user") for peer in peers]
        for victim in peers:
            room_id = await host.create_room(preset="public_chat", initial_state=settings)
            await host.send(room_id, "before")
            join = {"path": f"/join/{quote(room_id)}", "query": {"via": peers[0].name}}
            joining = asyncio.create_task(guest.call("POST", expect=None, **join))
            await asyncio.sleep(choose.uniform(0.0, 0.2))
            await asyncio.to_thread(victim.kill)
            await asyncio.to_thread(victim.start)
            await asyncio.gather(joining, return_exceptions=True)
            await surely(guest, **join)
            await host.send(room_id, "from the host")
            await guest.send(room_id, "from the guest")
            for client in (host, guest):
                until = time.monotonic() + PATIENCE_SECONDS
                while sorted(await said(client, room_id)) != ["before", "from the guest", "from the host"]:
                    assert time.monotonic() < until, await said(client, room_id)
                    await asyncio.sleep(0.2)
            states = [await client.get(f"/rooms/{quote(room_id)}/state") for client in (host, guest)]
            there, here = [{event["event_id"] for event in state} for state in states]
            assert there == here


async def test_servers_that_are_killed_tell_each_other_everything(peers: list[Peer]) -> None:
    choose = random.Random(SEED)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as http:
        people = [await Client(peer.url, http).register("user") for peer in peers]
        rooms = [await people[0].create_room(preset="public_chat") for _ in range(ROOMS)]
        for room_id in rooms:
            await people[1].post(f"/join/{quote(room_id)}", query={"via": peers[0].name})
        talkers = [Talker(client, room_id) for client in people for room_id in rooms]
        for _ in range(ROUNDS):
            running = [asyncio.create_task(talker.run()) for talker in talkers]
            await asyncio.sleep(choose.uniform(0.1, 0.6))
            victim = choose.choice(peers)
            await asyncio.to_thread(victim.kill)
            await asyncio.sleep(choose.uniform(0.0, 0.3))
            await asyncio.to_thread(victim.start)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        for room_id in rooms:
            wanted = Counter(body for t in talkers if t.room_id == room_id for body in t.acknowledged)
            until = time.monotonic() + PATIENCE_SECONDS
            while True:
                # A word from each is a sign of life to the other.
                for client in people:
                    await client.send(room_id, "and now?")
                shown = [Counter(await said(client, room_id)) for client in people]
                missing = [sorted((wanted - each).elements()) for each in shown]
                if not any(missing):
                    break
                assert time.monotonic() < until, missing
                await asyncio.sleep(0.5)
            for each in shown:
                assert all(count == 1 for body, count in each.items() if body in wanted)
