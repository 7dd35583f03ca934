"""A replica that was frozen and wakes up: what it was about to append is late (HARDENING 47)."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import aiohttp
import pytest

from tests.real_parts import mongodb
from tests.real_parts.wire import Wire
from tests.replicas import history
from tests.replicas.cluster import Cluster

ROOMS = 20
WRITTEN_SECONDS = 1.0
"""By then a write is done, or sent."""
Sending = asyncio.Task[history.Json]
MESSAGE = {"msgtype": "m.text", "body": "what I always wanted to say"}


class Scene(NamedTuple):
    """Two replicas; everything between the first and the database passes a wire."""

    cluster: Cluster
    to_database: Wire
    http: aiohttp.ClientSession

    def client(self, replica: int) -> history.Client:
        return history.Client(self.http, [self.cluster.urls[replica]], random.Random(0))


@pytest.fixture
async def scene(tmp_path: Path, kafka_bootstrap: str) -> AsyncIterator[Scene]:
    name = f"frozen{random.randrange(1 << 30)}"
    servers = mongodb.uri()
    address = servers.removeprefix("mongodb://").partition("/")[0]
    async with AsyncExitStack() as parts:
        wire = Wire(address)
        parts.push_async_callback(wire.close)
        cluster = Cluster(tmp_path, 0, storage="", bus=f"kafka://{kafka_bootstrap}", prefix=name)
        parts.callback(cluster.kill)
        for store in (await wire.start(), address):
            cluster.add(WEFT_STORAGE_URI=f"mongodb://{store}/{name}?directConnection=true")
        await asyncio.to_thread(cluster.start)
        http = await parts.enter_async_context(aiohttp.ClientSession())
        yield Scene(cluster, wire, http)


async def on_its_way(scene: Scene, anna: history.Client, dora: history.Client) -> tuple[str, Sending]:
    """A room, and a write to it that the first replica has sent, and that has not come to the database."""
    for number in range(ROOMS):
        room = (await anna.surely("POST", "/createRoom", {"preset": "public_chat"}))["room_id"]
        path = f"/rooms/{quote(room)}"
        await dora.surely("POST", f"{path}/join", {})
        # Whoever writes to this room knows now where its shard ends.
        await dora.surely("PUT", f"{path}/send/m.room.message/before", MESSAGE)
        scene.to_database.hold()
        late = {**MESSAGE, "body": "late"}
        sending = asyncio.create_task(dora.surely("PUT", f"{path}/send/m.room.message/{number}", late))
        await asyncio.wait([sending], timeout=WRITTEN_SECONDS)
        if not sending.done():
            assert scene.to_database.held > len(json.dumps(late))
            return room, sending
        # The other replica owns this one's shard.
        scene.to_database.release()
    raise AssertionError("the first replica owns no room")


async def test_a_ban_that_landed_meanwhile_holds(scene: Scene) -> None:
    """The write of the banned user was on its way to the database when the replica froze."""
    for moment in (0.0, 0.1, 0.5):
        anna = await scene.client(1).register(f"anna{moment}")
        dora = await scene.client(0).register(f"dora{moment}")
        room, sending = await on_its_way(scene, anna, dora)
        scene.cluster.replicas[0].freeze()
        await anna.surely("POST", f"/rooms/{quote(room)}/ban", {"user_id": dora.user_id})
        scene.to_database.release()
        await asyncio.sleep(moment)
        scene.cluster.replicas[0].thaw()
        with pytest.raises(history.Refused) as refused:
            await sending
        assert refused.value.errcode == "M_FORBIDDEN"
        told = [await anna.at(url).timeline(room) for url in scene.cluster.urls]
        history.check_same(told)
        history.check_bans(told[0])
        assert "late" not in [event["content"].get("body") for event in told[0]]
