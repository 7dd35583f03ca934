"""Networks that part, servers that are down, and keys that are replaced meanwhile."""

import asyncio
import time
from typing import Any
from urllib.parse import quote

from federation.errors import Unreachable
from tests.client_api.conftest import Client
from tests.federation.rooms import state_of, texts
from tests.federation.servers import Homeserver
from tests.federation.with_synapse.sides import Sides, agree, becomes, join, read_back, shows, talk
from tests.real_parts.synapse import Synapse


class Partition:
    """Neither server reaches the other while it lasts."""

    def __init__(self, server: Homeserver) -> None:
        self._server = server

    async def __aenter__(self) -> None:
        await self._server.close_listener()
        assert self._server.app.federation is not None
        others = self._server.app.federation.others
        self._exchange = others.transport.exchange

        async def nowhere(destination: str, *args: Any, **kwargs: Any) -> Any:
            raise Unreachable(destination, "the tests have parted the network")

        others.transport.exchange = nowhere  # type: ignore[method-assign]

    async def __aexit__(self, *exc: object) -> None:
        assert self._server.app.federation is not None
        self._server.app.federation.others.transport.exchange = self._exchange  # type: ignore[method-assign]
        await self._server.open_listener()


async def heal(sides: Sides, server: Homeserver, synapse: Synapse) -> None:
    """Each server tries the other again, as it would by itself after a while."""
    root = await admin(server)
    path = "/_synapse/admin/v1/federation/destinations"
    await root.post(f"{path}/{synapse.name}/reset_connection")


async def admin(server: Homeserver) -> Client:
    root = await server.register(f"root{time.monotonic_ns()}")
    await server.app.people.accounts.update(root.user_id, is_admin=True)
    return root


async def test_a_room_that_was_parted_grows_together(
    sides: Sides, room_id: str, server: Homeserver, synapse: Synapse
) -> None:
    """Both sides change state meanwhile, and at last both say the same of it."""
    await sides.host.set_state(
        room_id,
        "m.room.power_levels",
        {
            **await sides.host.get(f"/rooms/{quote(room_id)}/state/m.room.power_levels"),
            "users": {sides.guest.user_id: 50},
            "events": {"m.room.topic": 50, "m.room.name": 50, "m.room.power_levels": 100},
        },
    )
    await talk(sides, room_id)
    await agree(sides, room_id)
    async with Partition(server):
        for number in range(3):
            await sides.host.set_state(room_id, "m.room.topic", {"topic": f"of the host {number}"})
            await sides.guest.set_state(room_id, "m.room.topic", {"topic": f"of the guest {number}"})
            await sides.guest.send(room_id, f"guest {number}")
            await sides.host.send(room_id, f"host {number}")
        await sides.host.set_state(room_id, "m.room.name", {"name": "The host's"})
        await sides.guest.set_state(room_id, "m.room.topic", {"topic": "the last"})
    await heal(sides, server, synapse)
    await talk(sides, room_id)
    await agree(sides, room_id)
    for client in (sides.host, sides.guest):
        said = await texts(client, room_id)
        assert {f"{side} {number}" for side in ("guest", "host") for number in range(3)} <= set(said)


async def test_who_was_demoted_meanwhile_loses(
    sides: Sides, room_id: str, server: Homeserver, synapse: Synapse
) -> None:
    """What the guest did with a power that the host had taken away is undone on both sides alike."""
    levels = await sides.host.get(f"/rooms/{quote(room_id)}/state/m.room.power_levels")
    users = dict(levels["users"])
    await sides.host.set_state(
        room_id, "m.room.power_levels", {**levels, "users": {**users, sides.guest.user_id: 50}}
    )
    await talk(sides, room_id)
    await agree(sides, room_id)
    async with Partition(server):
        await sides.host.set_state(room_id, "m.room.power_levels", {**levels, "users": users})
        await sides.guest.set_state(room_id, "m.room.topic", {"topic": "mine"})
    await heal(sides, server, synapse)
    await talk(sides, room_id)
    await agree(sides, room_id)


async def test_what_was_said_while_one_was_down_arrives(
    sides: Sides, room_id: str, server: Homeserver, synapse: Synapse
) -> None:
    await talk(sides, room_id)
    weft_side, synapse_side = sides.of(server), sides.of(synapse)
    await asyncio.to_thread(synapse.stop)
    try:
        for number in range(3):
            await weft_side.send(room_id, f"while Synapse was down {number}")
        await server.stop()
        await server.start()
        await weft_side.send(room_id, "still down")
    finally:
        await asyncio.to_thread(synapse.start)
    await heal(sides, server, synapse)
    for number in range(3):
        await shows(synapse_side, room_id, f"while Synapse was down {number}")
    await shows(synapse_side, room_id, "still down")
    await server.stop()
    try:
        await synapse_side.send(room_id, "while Weft was down")
    finally:
        await server.start()
    await weft_side.send(room_id, "a sign of life")
    await shows(synapse_side, room_id, "a sign of life")
    await shows(weft_side, room_id, "while Weft was down")
    await agree(sides, room_id)


async def test_this_server_signs_with_other_keys(
    sides: Sides, room_id: str, server: Homeserver, second: Homeserver, synapse: Synapse
) -> None:
    """Its key is replaced while Synapse is up, and again while it is down."""
    await talk(sides, room_id)
    await server.stop()
    await server.replace_key()
    await server.start()
    await talk(sides, room_id)
    await asyncio.to_thread(synapse.stop)
    try:
        await sides.of(server).send(room_id, "by the second key")
        await server.stop()
        await server.replace_key()
        await server.start()
        await sides.of(server).send(room_id, "by the third key")
    finally:
        await asyncio.to_thread(synapse.start)
    await heal(sides, server, synapse)
    await shows(sides.of(synapse), room_id, "by the second key")
    await shows(sides.of(synapse), room_id, "by the third key")
    await talk(sides, room_id)
    await agree(sides, room_id)
    await all_is_believed(await second.register("newcomer"), sides, room_id, synapse.name)


async def test_synapse_signs_with_other_keys(
    sides: Sides, room_id: str, server: Homeserver, second: Homeserver, synapse: Synapse
) -> None:
    """Its key is replaced while this server is up, and again while it is down."""

    async def replace_key() -> None:
        await asyncio.to_thread(synapse.stop)
        synapse.replace_key()
        await asyncio.to_thread(synapse.start)
        # A server is asked for its keys once a minute.
        server.clock.ahead += 61_000

    await talk(sides, room_id)
    await replace_key()
    await talk(sides, room_id)
    await server.stop()
    try:
        await sides.of(synapse).send(room_id, "by the second key")
        await replace_key()
        await sides.of(synapse).send(room_id, "by the third key")
    finally:
        await server.start()
    await sides.of(server).send(room_id, "a sign of life")
    await shows(sides.of(server), room_id, "by the second key")
    await shows(sides.of(server), room_id, "by the third key")
    await talk(sides, room_id)
    await agree(sides, room_id)
    await all_is_believed(await second.register("newcomer"), sides, room_id, server.name)


async def all_is_believed(newcomer: Client, sides: Sides, room_id: str, via: str) -> None:
    """Somebody of a server that hears of the room only now is shown its whole state and history."""
    await join(newcomer, room_id, via)
    await becomes(sides.host, room_id, newcomer.user_id, "join")
    assert await state_of(newcomer, room_id) == await state_of(sides.host, room_id)
    shown = await read_back(newcomer, room_id, limit=100)
    # What was said on both sides of a fork comes in an order of each server's own.
    assert sorted(shown) == sorted(await read_back(sides.host, room_id, limit=100))
