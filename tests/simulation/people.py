"""Users who act at random. What they may not do, their own server refuses; now and then it is crooked."""

import asyncio
import random
from contextlib import suppress

from homeserver.errors import MatrixError
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.authoring import EventTemplate
from homeserver.rooms.posting import post
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from tests.simulation.node import Node
from tests.simulation.process import Killed
from tests.simulation.virtual_time import EPOCH_MS

MEMBER = "m.room.member"
GUESTS = 2
"""Users of each server who come, go, and are thrown out. Its keeper has all power, and stays."""


def keeper(name: str) -> str:
    return f"@keeper:{name}"


def guests(name: str) -> list[str]:
    return [f"@guest{n}:{name}" for n in range(GUESTS)]


def beginning(version: RoomVersion, names: list[str]) -> list[EventTemplate]:
    """The first events of a room whose creator is the first keeper."""
    creator, *others = map(keeper, names)
    content: JsonObject = {"room_version": version.identifier}
    if version.privileged_creators:
        content["additional_creators"] = others
    if not version.implicit_room_creator:
        content["creator"] = creator
    first: list[tuple[str, str, JsonObject]] = [
        ("m.room.create", "", content),
        (MEMBER, creator, {"membership": "join"}),
        ("m.room.power_levels", "", levels(version, names, {})),
        ("m.room.join_rules", "", {"join_rule": "public"}),
    ]
    return [EventTemplate(type, creator, content, state_key=key, ts=EPOCH_MS) for type, key, content in first]


def levels(version: RoomVersion, names: list[str], of_guests: dict[str, int]) -> JsonObject:
    keepers = {} if version.privileged_creators else {keeper(name): 100 for name in names}
    return {"users": {**keepers, **of_guests}, "state_default": 25, "redact": 50, "invite": 0}


class Crowd:
    """Acts of all users, one at a time, on their own servers."""

    def __init__(self, seed: str, nodes: list[Node], room_id: str) -> None:
        self._random = random.Random(seed)
        self._nodes = nodes
        self._names = [node.name for node in nodes]
        self._room_id = room_id
        self.acknowledged: list[str] = []
        """Events of which their senders know that they were sent."""
        self.forged: set[str] = set()
        """Events that servers sent though the state before them forbids them."""

    async def act(self, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(self._random.choice((0.0, 0.01, 0.5, 2.0)))
            node = self._random.choice([node for node in self._nodes if node.process.alive])
            with suppress(Killed):
                await node.process.run(self._act(node))

    async def _act(self, node: Node) -> None:
        room = await node.room(self._room_id)
        sender = self._random.choice([keeper(node.name), *guests(node.name)])
        template = self._wish(room, sender)
        try:
            self.acknowledged += await post(node.rooms, node.author, room, lambda head: [template])
        except MatrixError as error:
            if error.errcode != "M_FORBIDDEN":
                raise
            if self._random.random() < 0.3:
                self.forged.add(node.forge(room, template))

    async def speak(self, node: Node, text: str) -> None:
        """Have a server's keeper say something."""
        content = {"msgtype": "m.text", "body": text}
        template = EventTemplate("m.room.message", keeper(node.name), content)
        room = await node.room(self._room_id)
        said = await node.process.run(post(node.rooms, node.author, room, lambda head: [template]))
        self.acknowledged += said

    def _wish(self, room: Room, sender: str) -> EventTemplate:
        """What a user would like to send."""
        kind = self._random.choices(
            ("message", "topic", "levels", "member", "own", "redaction"), (6, 3, 2, 4, 3, 1)
        )[0]
        number = self._random.randrange(1000)
        if kind == "topic":
            return EventTemplate("m.room.topic", sender, {"topic": str(number)}, state_key="")
        if kind == "levels":
            chosen = {user: self._random.choice((0, 25, 50, 75)) for user in self._some_guests(3)}
            content = levels(room.version, self._names, chosen)
            return EventTemplate("m.room.power_levels", sender, content, state_key="")
        if kind == "own" and not sender.startswith("@keeper"):
            membership = self._random.choice(("join", "join", "join", "leave"))
            return EventTemplate(MEMBER, sender, {"membership": membership}, state_key=sender)
        if kind == "member":
            (target,) = self._some_guests(1)
            membership = self._random.choice(("ban", "leave", "leave", "invite"))
            return EventTemplate(MEMBER, sender, {"membership": membership}, state_key=target)
        if kind == "redaction":
            return _redaction(room, sender, self._random.choice(room.timeline))
        return EventTemplate("m.room.message", sender, {"msgtype": "m.text", "body": str(number)})

    def _some_guests(self, count: int) -> list[str]:
        return self._random.sample([guest for name in self._names for guest in guests(name)], count)


def _redaction(room: Room, sender: str, target: RoomEvent) -> EventTemplate:
    return EventTemplate(
        "m.room.redaction",
        sender,
        {"redacts": target.event_id} if room.version.redacts_in_content else {},
        redacts=target.event_id,
        redacts_key=(target.type, target.state_key) if target.state_key is not None else None,
    )
