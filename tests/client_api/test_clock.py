"""The server's clock is wrong for a while, by much: what it gave out then stays good afterwards."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from homeserver.app.stores import SPECS
from homeserver.app.wiring import App
from homeserver.clock import system_clock
from homeserver.config import Config
from rest.connections import runner_of
from storage.log import ShardMap
from storage.sqlite import open_store
from tests.client_api.conftest import Client, Watch
from tests.client_api.sliding import Sliding, whole_list

YEAR_MS = 365 * 24 * 3600 * 1000


Serve = Callable[[], AbstractAsyncContextManager[str]]


@pytest.fixture
def clock() -> Watch:
    return Watch()


@pytest.fixture
def serve(tmp_path: Path, clock: Watch) -> Serve:
    """A server by that clock, which goes on with what the one before it has stored; its address."""
    config = Config.for_development("localhost", tmp_path, 8008)

    @asynccontextmanager
    async def serving() -> AsyncIterator[str]:
        store = await open_store(
            config.storage.uri, server_name="localhost", shards=ShardMap(1, 1), specs=SPECS
        )
        app = App(config, store, now=clock)
        await app.start()
        runner = runner_of(app.web_application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            app.ground.long_polls.close()
            await runner.cleanup()
            await app.close()

    return serving


def typing_in(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """What is told of typing in the only room."""
    rooms = answer.get("rooms", {}).get("join", {}).values()
    events = [event for room in rooms for event in room["ephemeral"]["events"]]
    return [event["content"] for event in events if event["type"] == "m.typing"]


@pytest.mark.parametrize("jump", [YEAR_MS, -YEAR_MS], ids=["ahead", "behind"])
async def test_what_was_given_out_while_the_clock_was_wrong_is_good_afterwards(
    serve: Serve, clock: Watch, jump: int
) -> None:
    async with aiohttp.ClientSession() as http:
        async with serve() as base:
            alice = await Client(base, http).register("alice")
            bob = await Client(base, http).register("bob")
            room = await alice.create_room(preset="public_chat")
            await bob.join(room)
            typing = f"/rooms/{room}/typing/{alice.user_id}"
            await bob.sync()
            clock.ahead = jump
            await alice.put(typing, {"typing": True, "timeout": 60_000})
            assert typing_in(await bob.sync(timeout=1000)) == [{"user_ids": [alice.user_id]}]
            late = await alice.send(room, "by a clock that is wrong")
            assert (await bob.sync(timeout=1000))["rooms"]["join"][room]["timeline"]["events"][-1][
                "event_id"
            ] == late
            assert (await bob.get(f"/presence/{alice.user_id}/status")).get("last_active_ago", 0) >= 0
            clock.ahead = 0
            await alice.put(typing, {"typing": False})
            assert typing_in(await bob.sync(timeout=1000)) == [{"user_ids": []}]
            assert (await bob.get(f"/presence/{alice.user_id}/status")).get("last_active_ago", 0) >= 0
        async with serve() as base:
            for client in (alice, bob):
                client._base = base
            await alice.put(typing, {"typing": True, "timeout": 60_000})
            # By the since-token of the time when the clock was wrong.
            assert typing_in(await bob.sync(timeout=1000)) == [{"user_ids": [alice.user_id]}]
            sent = await alice.send(room, "by the right one")
            events = (await bob.sync(timeout=1000))["rooms"]["join"][room]["timeline"]["events"]
            assert [event["event_id"] for event in events] == [sent]


async def test_typing_is_told_in_sliding_sync_after_the_clock_was_wrong(serve: Serve, clock: Watch) -> None:
    async with aiohttp.ClientSession() as http:
        async with serve() as base:
            alice = await Client(base, http).register("alice")
            bob = await Client(base, http).register("bob")
            room = await alice.create_room(preset="public_chat")
            await bob.join(room)
            typing = f"/rooms/{room}/typing/{alice.user_id}"
            sliding = Sliding(bob, lists={"all": whole_list()}, extensions={"typing": {"enabled": True}})
            await sliding.poll()
            clock.ahead = YEAR_MS
            await alice.put(typing, {"typing": True, "timeout": 60_000})
            assert room in (await sliding.poll(timeout=1000))["extensions"]["typing"]["rooms"]
        clock.ahead = 0
        async with serve() as base:
            for client in (alice, bob):
                client._base = base
            for typing_now in (True, False):
                await alice.put(typing, {"typing": typing_now})
                told = (await sliding.poll(timeout=1000))["extensions"]["typing"]["rooms"][room]
                assert told["content"]["user_ids"] == ([alice.user_id] if typing_now else [])


async def test_event_from_the_future_keeps_no_room_at_the_top(serve: Serve, clock: Watch) -> None:
    async with aiohttp.ClientSession() as http:
        async with serve() as base:
            alice = await Client(base, http).register("alice")
            lying, other = await alice.create_room(), await alice.create_room()
            clock.ahead = YEAR_MS
            await alice.send(lying)
        clock.ahead = 0
        async with serve() as base:
            alice._base = base
            shown = (await Sliding(alice, lists={"all": whole_list()}).poll())["rooms"]
            assert list(shown) == [other, lying]
            assert shown[lying]["bump_stamp"] <= system_clock()
            await alice.send(lying)
            shown = (await Sliding(alice, lists={"all": whole_list()}).poll())["rooms"]
            assert list(shown) == [lying, other]
