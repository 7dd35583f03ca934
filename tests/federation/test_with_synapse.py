"""Rooms of this server with a real Synapse in them, and rooms of Synapse's with this server in them.

Nothing is looked at but what clients on either side are shown, and whether both say the same.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import aiohttp
import pytest
from nio import RoomPreset  # type: ignore[import-untyped]
from PIL import Image

from federation.errors import Unreachable
from tests import waiting
from tests.client_api.conftest import Client
from tests.client_api.crypto_device import CrossSigner, CryptoDevice, log_in
from tests.client_api.test_media import picture, thumbnail, upload
from tests.clients.nio_device import Device
from tests.federation.rooms import events, state_of, texts
from tests.federation.servers import Homeserver
from tests.real_parts.synapse import Synapse, python

VERSIONS = os.environ.get("TEST_ROOM_VERSIONS", "1 2 3 4 5 6 7 8 9 10 11 12").split()
until = partial(waiting.until, seconds=30.0)
"""Until what happens on one server is shown on the other."""


@pytest.fixture(scope="module")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    running = Synapse(tmp_path_factory.mktemp("peer") / "synapse", asyncio.run(python()))
    try:
        running.start()
        yield running
    finally:
        running.stop()


class Sides(NamedTuple):
    """Somebody at home where the room is made, and somebody on the other server."""

    host: Client
    guest: Client
    host_name: str
    guest_name: str

    def of(self, server: Homeserver | Synapse) -> Client:
        """Who is at home there."""
        return self.host if self.host_name == server.name else self.guest


@pytest.fixture(params=["weft hosts", "synapse hosts"])
async def sides(
    request: pytest.FixtureRequest, server: Homeserver, synapse: Synapse, http: aiohttp.ClientSession
) -> Sides:
    ours = await server.register("ours")
    theirs = Client(synapse.base, http, checked=False)
    await theirs.register(f"theirs{server.name.replace('.', '-')}")
    if request.param == "weft hosts":
        return Sides(ours, theirs, server.name, synapse.name)
    return Sides(theirs, ours, synapse.name, server.name)


async def join(guest: Client, room: str, via: str) -> str:
    room_id: str = (await guest.post(f"/join/{quote(room)}", query={"via": via, "server_name": via}))[
        "room_id"
    ]
    return room_id


async def shows(client: Client, room_id: str, text: str) -> None:
    async def look() -> bool:
        return text in await texts(client, room_id)

    await until(look, f"{client.user_id} sees {text!r}")


async def agree(sides: Sides, room_id: str) -> None:
    """Both servers have the same state."""

    async def look() -> bool:
        return await state_of(sides.host, room_id) == await state_of(sides.guest, room_id)

    await until(look, "both servers have the same state")


async def talk(sides: Sides, room_id: str) -> None:
    """Each side is shown what the other says now."""
    for speaker, other in ((sides.guest, sides.host), (sides.host, sides.guest)):
        said = f"from {speaker.user_id}, {time.monotonic_ns()}"
        await speaker.send(room_id, said)
        await shows(other, room_id, said)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_public_room_of_each_version(sides: Sides, version: str) -> None:
    room_id = await sides.host.create_room(preset="public_chat", room_version=version, name="Meeting")
    assert await join(sides.guest, room_id, sides.host_name) == room_id
    await talk(sides, room_id)
    await sides.host.set_state(room_id, "m.room.topic", {"topic": "Both"})
    await agree(sides, room_id)
    topic = await sides.guest.get(f"/rooms/{quote(room_id)}/state/m.room.topic")
    assert topic == {"topic": "Both"}


@pytest.fixture
async def room_id(sides: Sides) -> str:
    """A room of the host's that the guest has joined."""
    room_id = await sides.host.create_room(preset="public_chat")
    await join(sides.guest, room_id, sides.host_name)
    return room_id


async def membership(client: Client, room_id: str, user_id: str) -> str | None:
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user_id)}"
    reply = await client.call("GET", path, expect=None)
    return reply.body["membership"] if reply.status == 200 else None


async def becomes(client: Client, room_id: str, user_id: str, wanted: str) -> None:
    async def look() -> bool:
        return await membership(client, room_id, user_id) == wanted

    await until(look, f"{client.user_id} sees that {user_id} is {wanted!r}")


async def test_a_room_is_joined_by_its_alias(sides: Sides) -> None:
    room_id = await sides.host.create_room(preset="public_chat", room_alias_name=f"m{id(sides)}")
    alias = f"#m{id(sides)}:{sides.host_name}"
    assert await join(sides.guest, alias, sides.host_name) == room_id
    await talk(sides, room_id)


async def test_who_leaves_may_come_back(sides: Sides, room_id: str) -> None:
    await sides.guest.leave(room_id)
    await becomes(sides.host, room_id, sides.guest.user_id, "leave")
    await sides.host.send(room_id, "meanwhile")
    await sides.host.set_state(room_id, "m.room.topic", {"topic": "meanwhile"})
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)
    await agree(sides, room_id)
    assert await sides.guest.get(f"/rooms/{quote(room_id)}/state/m.room.topic") == {"topic": "meanwhile"}
    assert await read_back(sides.guest, room_id, limit=3) == await read_back(sides.host, room_id, limit=100)


async def read_back(client: Client, room_id: str, *, limit: int) -> list[str]:
    """The ids of all events that a client reads backwards from the newest one."""
    found: list[str] = []
    start = ""
    while True:
        query = {"dir": "b", "limit": str(limit), **({"from": start} if start else {})}
        page = await client.get(f"/rooms/{quote(room_id)}/messages", query=query)
        found += [event["event_id"] for event in page["chunk"]]
        start = page.get("end", "")
        if not start:
            return found


async def test_who_is_kicked_and_banned_learns_of_it(sides: Sides, room_id: str) -> None:
    await sides.guest.sync()
    await sides.host.post(f"/rooms/{quote(room_id)}/kick", {"user_id": sides.guest.user_id, "reason": "so"})

    async def gone() -> bool:
        return room_id in (await sides.guest.sync()).get("rooms", {}).get("leave", {})

    await until(gone, "the guest has left")
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)
    await sides.host.post(f"/rooms/{quote(room_id)}/ban", {"user_id": sides.guest.user_id})
    await until(gone, "the guest is banned")
    path = f"/join/{quote(room_id)}"
    reply = await sides.guest.call("POST", path, {}, query={"via": sides.host_name}, expect=403)
    assert reply.errcode == "M_FORBIDDEN"


async def test_messages_are_redacted_on_the_other_side(sides: Sides, room_id: str) -> None:
    for author, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        said = await author.send(room_id, f"oops {author.user_id}")
        await shows(other, room_id, f"oops {author.user_id}")
        await author.redact(room_id, said)

        async def redacted(other: Client = other, said: str = said) -> bool:
            shown = await other.get(f"/rooms/{quote(room_id)}/event/{quote(said)}")
            return shown["content"] == {}

        await until(redacted, f"{other.user_id} does not see it any more")


async def ephemeral(client: Client, room_id: str, type: str, holds: Callable[[Any], bool]) -> None:
    """Sync until an ephemeral event of this type is as wanted."""

    async def look() -> bool:
        body = await client.sync(timeout=1000)
        joined = body.get("rooms", {}).get("join", {}).get(room_id, {})
        found = joined.get("ephemeral", {}).get("events", [])
        return any(event["type"] == type and holds(event["content"]) for event in found)

    await until(look, f"{client.user_id} is shown {type}")


async def test_typing_is_shown_on_the_other_side(sides: Sides, room_id: str) -> None:
    await talk(sides, room_id)
    for typist, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        path = f"/rooms/{quote(room_id)}/typing/{quote(typist.user_id)}"
        await typist.put(path, {"typing": True, "timeout": 20_000})
        await ephemeral(other, room_id, "m.typing", lambda c, t=typist: c["user_ids"] == [t.user_id])
        await typist.put(path, {"typing": False})
        await ephemeral(other, room_id, "m.typing", lambda c: c["user_ids"] == [])


async def test_receipts_are_shown_on_the_other_side(sides: Sides, room_id: str) -> None:
    async def in_the_room() -> bool:
        return room_id in (await sides.guest.sync(timeout=1000)).get("rooms", {}).get("join", {})

    # Synapse never shows a receipt that came while it had only part of the room's state: its /sync gives the
    # room later, but receipts only from the since-token on.
    await until(in_the_room, f"{sides.guest.user_id} is shown the room")
    for reader, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        said = await other.send(room_id, f"read me, {reader.user_id}")
        await shows(reader, room_id, f"read me, {reader.user_id}")
        await reader.post(f"/rooms/{quote(room_id)}/receipt/m.read/{quote(said)}")
        await ephemeral(
            other,
            room_id,
            "m.receipt",
            lambda c, s=said, r=reader: r.user_id in c.get(s, {}).get("m.read", {}),
        )


async def test_names_are_changed_on_the_other_side(sides: Sides, room_id: str) -> None:
    for person, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        name = f"Name of {person.user_id}"
        await person.put(f"/profile/{quote(person.user_id)}/displayname", {"displayname": name})

        async def renamed(person: Client = person, other: Client = other, name: str = name) -> bool:
            members = await other.get(f"/rooms/{quote(room_id)}/joined_members")
            return members["joined"][person.user_id].get("display_name") == name

        await until(renamed, f"{other.user_id} sees {name}")
    await agree(sides, room_id)


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


async def test_servers_that_a_room_shuts_out_hear_and_say_nothing_more(
    sides: Sides, room_id: str, synapse: Synapse
) -> None:
    await talk(sides, room_id)
    acl = {"allow": ["*"], "deny": [sides.guest_name], "allow_ip_literals": True}
    await sides.host.set_state(room_id, "m.room.server_acl", acl)
    await sides.host.send(room_id, "among us")
    path = f"/rooms/{quote(room_id)}/send/m.room.message/x"
    await sides.guest.call("PUT", path, {"msgtype": "m.text", "body": "said"}, expect=None)
    await asyncio.sleep(2)
    assert "said" not in await texts(sides.host, room_id)
    if sides.host_name != synapse.name:
        # Synapse does tell those whom it does not hear.
        assert "among us" not in await texts(sides.guest, room_id)


async def test_an_upgraded_room_is_followed(sides: Sides, room_id: str) -> None:
    reply = await sides.host.post(f"/rooms/{quote(room_id)}/upgrade", {"new_version": "11"})
    successor = reply["replacement_room"]

    async def told() -> bool:
        path = f"/rooms/{quote(room_id)}/state/m.room.tombstone"
        return (await sides.guest.call("GET", path, expect=None)).status == 200

    await until(told, "the guest sees the tombstone")
    assert await join(sides.guest, successor, sides.host_name) == successor
    await talk(sides, successor)


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


async def test_presence_is_shown_on_the_other_side(sides: Sides, room_id: str) -> None:
    await talk(sides, room_id)
    for person, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        await other.sync()
        status = f"I am {person.user_id}"
        path = f"/presence/{quote(person.user_id)}/status"
        await person.put(path, {"presence": "online", "status_msg": status})

        async def look(person: Client = person, other: Client = other, status: str = status) -> bool:
            told = (await other.sync(timeout=500)).get("presence", {}).get("events", [])
            return any(
                event["sender"] == person.user_id and event["content"].get("status_msg") == status
                for event in told
            )

        await until(look, f"{other.user_id} is shown how {person.user_id} is")


async def test_profiles_are_shown_on_the_other_side(sides: Sides) -> None:
    for person, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        await person.put(f"/profile/{quote(person.user_id)}/displayname", {"displayname": "A name"})
        assert (await other.get(f"/profile/{quote(person.user_id)}"))["displayname"] == "A name"


async def test_history_from_before_the_join_is_the_same_on_both(sides: Sides) -> None:
    room_id = await sides.host.create_room(preset="public_chat", name="before")
    for number in range(30):
        await sides.host.send(room_id, f"{number}")
        await sides.host.set_state(room_id, "m.room.topic", {"topic": f"{number}"})
    await join(sides.guest, room_id, sides.host_name)
    path = f"/rooms/{quote(room_id)}/messages"
    found: list[Any] = []
    token: str | None = None
    while not found or token:
        asked = {"dir": "b", "limit": "20"} | ({"from": token} if token else {})
        page = await sides.guest.get(path, query=asked)
        found += page["chunk"]
        token = page.get("end")
    shown = [event["event_id"] for event in await events(sides.host, room_id)]
    assert [event["event_id"] for event in found][::-1] == shown
    assert found[-1]["type"] == "m.room.create"


async def test_files_are_shared_with_the_other_server(sides: Sides) -> None:
    content = bytes(range(256)) * 2000
    where = await upload(sides.host, content, "application/octet-stream", "ünï.bin")
    reply = await sides.guest.call("GET", f"/_matrix/client/v1/media/download/{where}")
    assert reply.body == content
    assert "ünï.bin" in unquote(reply.headers["Content-Disposition"])
    small = await thumbnail(sides.guest, await upload(sides.host, picture(300, 200)), width=32, height=32)
    assert (small.status, small.headers["Content-Type"].partition("/")[0]) == (200, "image")


async def test_a_space_reaches_into_rooms_of_the_other_server(sides: Sides) -> None:
    space = {"creation_content": {"type": "m.space"}, "preset": "public_chat"}
    inner = await sides.host.create_room(name="Inner", **space)
    leaf = await sides.host.create_room(name="Leaf", preset="public_chat")
    await sides.host.set_state(inner, "m.space.child", {"via": [sides.host_name]}, leaf)
    top = await sides.guest.create_room(name="Top", **space)
    await sides.guest.set_state(top, "m.space.child", {"via": [sides.host_name]}, inner)
    tree = await sides.guest.get(f"/_matrix/client/v1/rooms/{quote(top)}/hierarchy")
    assert [room["name"] for room in tree["rooms"]] == ["Top", "Inner", "Leaf"]


async def is_shown(client: Client, room_id: str, section: str) -> None:
    """Sync until a room comes as invited or left."""

    async def look() -> bool:
        return room_id in (await client.sync(timeout=1000)).get("rooms", {}).get(section, {})

    await until(look, f"{client.user_id} is shown the room under {section!r}")


async def test_an_invite_is_accepted(sides: Sides) -> None:
    room_id = await sides.host.create_room(preset="private_chat", name="In private")
    await sides.host.invite(room_id, sides.guest.user_id)
    await is_shown(sides.guest, room_id, "invite")
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)
    await agree(sides, room_id)


async def test_an_invite_is_refused_or_withdrawn(sides: Sides) -> None:
    refused = await sides.host.create_room(preset="private_chat")
    await sides.host.invite(refused, sides.guest.user_id)
    await is_shown(sides.guest, refused, "invite")
    await sides.guest.leave(refused)
    await becomes(sides.host, refused, sides.guest.user_id, "leave")
    withdrawn = await sides.host.create_room(preset="private_chat")
    await sides.host.invite(withdrawn, sides.guest.user_id)
    await is_shown(sides.guest, withdrawn, "invite")
    await sides.host.post(f"/rooms/{quote(withdrawn)}/kick", {"user_id": sides.guest.user_id})

    await is_shown(sides.guest, withdrawn, "leave")


async def test_who_knocks_is_let_in(sides: Sides) -> None:
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room_id = await sides.host.create_room(preset="private_chat", initial_state=[rules])
    via = {"via": sides.host_name, "server_name": sides.host_name}
    await sides.guest.post(f"/knock/{quote(room_id)}", {"reason": "please"}, query=via)
    await becomes(sides.host, room_id, sides.guest.user_id, "knock")
    await sides.host.invite(room_id, sides.guest.user_id)
    await is_shown(sides.guest, room_id, "invite")
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)


async def test_members_of_one_room_may_join_another(sides: Sides) -> None:
    """By the authority of a member who may invite."""
    club = await sides.host.create_room(preset="public_chat")
    rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}
    rules = {"type": "m.room.join_rules", "state_key": "", "content": rule}
    room_id = await sides.host.create_room(preset="private_chat", initial_state=[rules])
    via = {"via": sides.host_name, "server_name": sides.host_name}
    reply = await sides.guest.call("POST", f"/join/{quote(room_id)}", {}, query=via, expect=None)
    assert reply.status == 403
    await join(sides.guest, club, sides.host_name)
    await talk(sides, club)
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)
    await agree(sides, room_id)


async def test_history_from_before_the_join_is_read(sides: Sides) -> None:
    room_id = await sides.host.create_room(preset="public_chat")
    said = [f"before {number}" for number in range(120)]
    for body in said:
        await sides.host.send(room_id, body)
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)

    async def read() -> bool:
        found: list[str] = []
        start = ""
        for _ in range(40):
            query = {"dir": "b", "limit": "50", **({"from": start} if start else {})}
            page = await sides.guest.get(f"/rooms/{quote(room_id)}/messages", query=query)
            found += [event["content"].get("body", event["type"]) for event in page["chunk"]]
            start = page.get("end", "")
            if not start or "m.room.create" in found:
                break
        assert "m.room.create" in found
        return [body for body in found[::-1] if body.startswith("before")] == said

    # Synapse fetches some of it after it has answered.
    await until(read, "the history is there")


async def test_pictures_are_seen_on_the_other_side(sides: Sides, room_id: str) -> None:
    png = BytesIO()
    Image.new("RGB", (640, 480), "teal").save(png, "PNG")
    for owner, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        reply = await owner.call(
            "POST", "/_matrix/media/v3/upload", data=png.getvalue(), headers={"Content-Type": "image/png"}
        )
        path = reply.body["content_uri"].removeprefix("mxc://")
        media = "/_matrix/client/v1/media"
        shown = await other.call("GET", f"{media}/download/{path}")
        assert shown.body == png.getvalue()
        assert shown.headers["Content-Type"] == "image/png"
        small = await other.call(
            "GET", f"{media}/thumbnail/{path}", query={"width": "96", "height": "96", "method": "crop"}
        )
        assert 0 < len(small.body) < 100_000


async def test_people_are_seen_online_on_the_other_side(sides: Sides, room_id: str) -> None:
    await talk(sides, room_id)
    for person, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        status = {"presence": "online", "status_msg": f"here is {person.user_id}"}
        await person.put(f"/presence/{quote(person.user_id)}/status", status)

        async def look(person: Client = person, other: Client = other, status: Any = status) -> bool:
            shown = await other.call("GET", f"/presence/{quote(person.user_id)}/status", expect=None)
            return shown.status == 200 and shown.body.get("status_msg") == status["status_msg"]

        await until(look, f"{other.user_id} sees that {person.user_id} is there")


async def test_a_room_of_many_members_is_joined(sides: Sides) -> None:
    room_id = await sides.host.create_room(preset="public_chat")
    for number in range(200):
        await (await sides.host.stranger().register(f"m{number}-{time.monotonic_ns()}")).join(room_id)
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)
    await agree(sides, room_id)
    joined = await sides.guest.get(f"/rooms/{quote(room_id)}/joined_members")
    assert len(joined["joined"]) == 202
