"""kill -9 of servers that talk to each other: what was acknowledged anywhere is everywhere at last, once."""

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import aiohttp

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


async def test_servers_that_are_killed_tell_each_other_everything(tmp_path: Path) -> None:
    choose = random.Random(SEED)
    peers = [Peer(tmp_path / "one"), Peer(tmp_path / "two")]
    await asyncio.gather(*(asyncio.to_thread(peer.start) for peer in peers))
    try:
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
    finally:
        for peer in peers:
            peer.stop()
