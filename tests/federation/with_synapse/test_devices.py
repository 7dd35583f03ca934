"""End-to-end encryption across servers: messages for devices, their keys, encrypted rooms."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nio import RoomPreset  # type: ignore[import-untyped]

from tests.client_api.conftest import Client
from tests.client_api.crypto_device import CrossSigner, CryptoDevice, log_in
from tests.clients.nio_device import Device
from tests.federation.servers import Homeserver
from tests.federation.with_synapse.sides import Sides, join, talk, until
from tests.real_parts.synapse import Synapse


async def test_messages_for_devices_arrive_once(sides: Sides, room_id: str) -> None:
    await talk(sides, room_id)
    for sender, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        await other.sync()
        for number in range(3):
            await sender.put(
                f"/sendToDevice/m.test/{number}",
                {"messages": {other.user_id: {other.device_id: {"number": number}}}},
            )
        got: list[int] = []

        async def look(other: Client = other, got: list[int] = got) -> bool:
            body = await other.sync(timeout=500)
            found = body.get("to_device", {}).get("events", [])
            got += [event["content"]["number"] for event in found if event["type"] == "m.test"]
            return len(got) >= 3

        await until(look, f"{other.user_id} has the messages")
        assert got == [0, 1, 2]


@pytest.mark.parametrize("hosts", ["weft", "synapse"])
async def test_encrypted_messages_are_read_on_the_other_side(
    hosts: str, server: Homeserver, synapse: Synapse, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """By new devices, too, as soon as they are there."""
    opened: list[Device] = []
    bases = {server.name: server.base, synapse.name: synapse.base}
    names = list(bases) if hosts == "weft" else list(bases)[::-1]
    try:
        anna = await Device.register(bases[names[0]], tmp_path / "anna", "anna", opened)
        bert = await Device.register(bases[names[1]], tmp_path / "bert", "bert", opened)
        room_id = await anna.create_encrypted_room(preset=RoomPreset.public_chat)
        # The library cannot say by way of whom.
        plain = Client(bases[names[1]], http, checked=False)
        plain.token = bert.client.access_token
        await join(plain, room_id, names[0])
        await bert.until("the room", lambda: bert.client.rooms.get(room_id))
        await anna.sees_member(room_id, bert.user_id)
        await anna.knows_devices(bert)
        await bert.sees_member(room_id, anna.user_id)
        await bert.knows_devices(anna)
        await anna.say(room_id, "for your eyes")
        await bert.sees_text(room_id, "for your eyes")
        await bert.say(room_id, "read, and burned")
        await anna.sees_text(room_id, "read, and burned")
        tablet = await bert.another("tablet")
        await anna.knows_devices(tablet)
        await anna.say(room_id, "for both of you")
        await tablet.sees_text(room_id, "for both of you")
        await bert.sees_text(room_id, "for both of you")
    finally:
        for device in opened:
            await device.stop()


async def shown_keys(client: Client, user_id: str) -> Any:
    """What a client is shown of a user's keys, but for the names of devices; nothing, where that fails."""
    answer = await client.post("/keys/query", {"device_keys": {user_id: []}})
    if answer.get("failures"):
        # Synapse answers so for a moment, while it fetches the list anew.
        return {}, None, None
    devices = answer["device_keys"].get(user_id, {})
    for keys in devices.values():
        keys.pop("unsigned", None)
    return devices, answer["master_keys"].get(user_id), answer["self_signing_keys"].get(user_id)


async def hears_of(client: Client, user_id: str) -> None:
    """The client is told that the user's devices are others now."""

    async def look() -> bool:
        body = await client.sync(timeout=500)
        return user_id in body.get("device_lists", {}).get("changed", [])

    await until(look, f"{client.user_id} hears of the devices of {user_id}")


async def show_the_same(other: Client, owner: Client, devices: set[str]) -> None:
    """Both servers show the owner's devices to be these, with the same keys and signatures."""

    async def look() -> bool:
        shown = await shown_keys(other, owner.user_id)
        return set(shown[0]) == devices and shown == await shown_keys(owner, owner.user_id)

    await until(look, f"{other.user_id} is shown the keys of {owner.user_id}")


async def test_changes_of_devices_are_followed_on_the_other_side(sides: Sides, room_id: str) -> None:
    await talk(sides, room_id)
    for owner, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        await other.sync()
        first = CryptoDevice(owner)
        await first.upload(one_time=1)
        await hears_of(other, owner.user_id)
        await show_the_same(other, owner, {owner.device_id})
        second = await log_in(owner)
        await CryptoDevice(second, 2).upload()
        await hears_of(other, owner.user_id)
        await show_the_same(other, owner, {owner.device_id, second.device_id})
        signer = CrossSigner(owner.user_id)
        await owner.post("/keys/device_signing/upload", signer.upload())
        await hears_of(other, owner.user_id)
        signature = signer.sign_device(first.device_keys())
        await owner.post("/keys/signatures/upload", {owner.user_id: {owner.device_id: signature}})

        await show_the_same(other, owner, {owner.device_id, second.device_id})
        await second.post("/logout")
        await show_the_same(other, owner, {owner.device_id})
        claimed = await CryptoDevice(other, 3).claim(first)
        assert claimed is not None
        assert claimed[1]["key"] == first.one_time_key(0)["key"]
        assert await CryptoDevice(other, 3).claim(first) is None
