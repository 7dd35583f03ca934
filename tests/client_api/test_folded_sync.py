"""A client that puts together what /sync tells it has, at any moment, what a first sync would tell it.

People do things at random in a few rooms; a failure names its seed.
"""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import msgspec
import pytest

from tests.client_api.conftest import Client, Server

STEPS = 90
FILTERS: list[tuple[dict[str, Any], str]] = [
    ({"timeline": {"limit": 3}}, "false"),
    ({"timeline": {"limit": 2}, "state": {"lazy_load_members": True}}, "false"),
    ({"timeline": {"limit": 1, "unread_thread_notifications": True}}, "true"),
    ({"timeline": {"limit": 5}, "state": {"lazy_load_members": True}}, "true"),
]


class Folded(msgspec.Struct):
    """A room as a client has it."""

    state: dict[tuple[str, str], str] = {}
    timeline: list[str] = []
    account_data: dict[str, Any] = {}
    receipts: dict[tuple[str, str, str | None], str] = {}
    typing: list[str] = []
    summary: dict[str, Any] = {}
    unread: Any = None

    def take(self, section: dict[str, Any]) -> None:
        """Add what a section of an answer says."""
        timeline = section["timeline"]["events"]
        if "state_after" in section:
            state = section["state_after"]["events"]
        else:
            state = [*section["state"]["events"], *(e for e in timeline if "state_key" in e)]
        self.state |= {(e["type"], e["state_key"]): e["event_id"] for e in state}
        for event in timeline:
            assert ("m.room.member", event["sender"]) in self.state, event
        if section["timeline"].get("limited"):
            self.timeline = []
        self.timeline += [event["event_id"] for event in timeline]
        for event in section.get("account_data", {}).get("events", []):
            self.account_data[event["type"]] = event["content"]
        for event in section.get("ephemeral", {}).get("events", []):
            if event["type"] == "m.typing":
                self.typing = sorted(event["content"]["user_ids"])
                continue
            for event_id, kinds in event["content"].items():
                for kind, users in kinds.items():
                    for user_id, shown in users.items():
                        self.receipts[user_id, kind, shown.get("thread_id")] = event_id
        self.summary |= section.get("summary", {})
        if "unread_notifications" in section:
            self.unread = section["unread_notifications"], section.get("unread_thread_notifications", {})


class Device:
    """A client that syncs now and then."""

    def __init__(self, client: Client, room_filter: dict[str, Any], state_after: str) -> None:
        self.client = client
        self._query = {
            "filter": msgspec.json.encode({"room": room_filter}).decode(),
            "use_state_after": state_after,
        }
        self._is_lazy = "state" in room_filter
        self._since: str | None = None
        self._rooms: dict[str, Folded] = {}

    async def _answer(self, since: str | None) -> Any:
        return await self.client.get("/sync", query=self._query | ({"since": since} if since else {}))

    async def sync(self) -> None:
        """Go on from the last answer, and compare with a first sync."""
        body = await self._answer(self._since)
        self._since = body["next_batch"]
        rooms = body.get("rooms", {})
        for room_id, section in rooms.get("leave", {}).items():
            left = self._rooms.pop(room_id, None)
            if left is not None:
                left.take(section)
                await self._check_state(room_id, left)
        for room_id, section in rooms.get("join", {}).items():
            self._rooms.setdefault(room_id, Folded()).take(section)
        fresh = (await self._answer(None)).get("rooms", {}).get("join", {})
        assert self._rooms.keys() == fresh.keys()
        for room_id, room in self._rooms.items():
            first = Folded()
            first.take(fresh[room_id])
            await self._check_state(room_id, room)
            await self._check_timeline(room_id, room)
            for name in ("account_data", "receipts", "typing", "unread"):
                assert getattr(room, name) == getattr(first, name), name
            assert room.summary.items() >= first.summary.items()

    async def _check_state(self, room_id: str, room: Folded) -> None:
        events = await self.client.get(f"/rooms/{room_id}/state")
        now = {(e["type"], e["state_key"]): e["event_id"] for e in events}
        if self._is_lazy:
            now = {key: now[key] for key in now if key[0] != "m.room.member" or key in room.state}
        assert room.state == now

    async def _check_timeline(self, room_id: str, room: Folded) -> None:
        query = {"dir": "b", "limit": len(room.timeline)}
        events = (await self.client.get(f"/rooms/{room_id}/messages", query=query))["chunk"]
        assert room.timeline == [event["event_id"] for event in reversed(events)]


class People:
    """What users do; much of it is refused."""

    def __init__(self, random: Random, clients: list[Client], rooms: list[str]) -> None:
        self._random = random
        self._clients = clients
        self._rooms = rooms
        self._sent: dict[str, list[str]] = {room_id: [] for room_id in rooms}
        self._number = 0

    async def act(self) -> None:
        """One thing."""
        deeds: dict[Callable[[Client, str], Awaitable[None]], int] = {
            self._say: 8,
            self._name: 3,
            self._move: 6,
            self._read: 4,
            self._type: 2,
            self._keep: 3,
        }
        (deed,) = self._random.choices(list(deeds), list(deeds.values()))
        self._number += 1
        await deed(self._random.choice(self._clients), self._random.choice(self._rooms))

    async def _say(self, client: Client, room_id: str) -> None:
        content: dict[str, Any] = {"msgtype": "m.text", "body": "hey", "m.mentions": {}}
        earlier = self._sent[room_id]
        if earlier and self._random.random() < 0.3:
            content["m.relates_to"] = {"rel_type": "m.thread", "event_id": earlier[0]}
        path = f"/rooms/{room_id}/send/m.room.message/p{self._number}"
        reply = await client.call("PUT", path, content, expect=None)
        if reply.status == 200:
            earlier.append(reply.body["event_id"])

    async def _name(self, client: Client, room_id: str) -> None:
        if self._random.random() < 0.3:
            name = {"displayname": f"called {self._number}"}
            await client.put(f"/profile/{client.user_id}/displayname", name)
        else:
            content = {"name": f"room {self._number}"}
            await client.call("PUT", f"/rooms/{room_id}/state/m.room.name", content, expect=None)

    async def _move(self, client: Client, room_id: str) -> None:
        how = self._random.choice(["join", "join", "join", "leave", "kick"])
        body = {"user_id": self._random.choice(self._clients).user_id} if how == "kick" else {}
        await client.call("POST", f"/rooms/{room_id}/{how}", body, expect=None)

    async def _read(self, client: Client, room_id: str) -> None:
        if self._sent[room_id]:
            event_id = self._random.choice(self._sent[room_id][-4:])
            await client.call("POST", f"/rooms/{room_id}/receipt/m.read/{event_id}", {}, expect=None)

    async def _type(self, client: Client, room_id: str) -> None:
        content = {"typing": self._random.random() < 0.6, "timeout": 100_000}
        await client.call("PUT", f"/rooms/{room_id}/typing/{client.user_id}", content, expect=None)

    async def _keep(self, client: Client, room_id: str) -> None:
        where = f"/user/{client.user_id}/rooms/{room_id}/account_data/org.example.kept"
        await client.put(where, {"n": self._number})


@pytest.mark.parametrize(("data", "room_shards"), [("sqlite", 2)], indirect=["data"])
@pytest.mark.parametrize("seed", range(4))
async def test_what_was_told_adds_up_to_what_a_first_sync_tells(server: Server, seed: int) -> None:
    random = Random(seed)
    clients = [await server.register(f"user{number}") for number in range(4)]
    levels = {"users_default": 50, "kick": 50}
    rooms = [
        await clients[number].create_room(preset="public_chat", power_level_content_override=levels)
        for number in range(2)
    ]
    devices = [
        Device(client, room_filter, state_after)
        for client, (room_filter, state_after) in zip(clients, FILTERS, strict=True)
    ]
    people = People(random, clients, rooms)
    for _ in range(STEPS):
        await people.act()
        if random.random() < 0.4:
            await random.choice(devices).sync()
