"""Users who act at random. What they may not do, their own server refuses; now and then it is crooked."""

import asyncio
import random
from contextlib import suppress

from homeserver.errors import MatrixError
from homeserver.protocol.identifiers import server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.rooms.authoring import EventTemplate
from homeserver.rooms.posting import post
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from tests.simulation.node import Node
from tests.simulation.process import Killed
from tests.simulation.virtual_time import EPOCH_MS

MEMBER = "m.room.member"
TOMBSTONE = "m.room.tombstone"
REDACTION = "m.room.redaction"
LEVELS = "m.room.power_levels"
VERSIONS = ("2", "6", "11", "12")
UPGRADES = 2
"""Rooms replaced in a run."""
GUESTS = 2
"""Users of each server who come, go, and are thrown out. Its keeper has all power, and stays."""


def keeper(name: str) -> str:
    return f"@keeper:{name}"


def guests(name: str) -> list[str]:
    return [f"@guest{n}:{name}" for n in range(GUESTS)]


def replacement(room: Room) -> str | None:
    """What has replaced a room, by its tombstone, unless that was redacted."""
    return room.state_content(TOMBSTONE).get("replacement_room")


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
        (LEVELS, "", levels(version, names, {})),
        ("m.room.join_rules", "", {"join_rule": "public"}),
    ]
    return [EventTemplate(type, creator, content, state_key=key, ts=EPOCH_MS) for type, key, content in first]


def levels(version: RoomVersion, names: list[str], of_guests: dict[str, int]) -> JsonObject:
    keepers = {} if version.privileged_creators else {keeper(name): 100 for name in names}
    return {"users": {**keepers, **of_guests}, "state_default": 25, "redact": 50, "invite": 0}


class Crowd:
    """Acts of all users, one at a time, on their own servers; joining other servers' rooms takes a while."""

    def __init__(self, seed: str, nodes: list[Node]) -> None:
        self._random = random.Random(seed)
        self._nodes = nodes
        self._names = [node.name for node in nodes]
        self._wanted: dict[tuple[str, str], list[str]] = {}
        """(server, room) → by way of which others its keeper wants to be there."""
        self.acknowledged: list[str] = []
        """Events of which their senders know that they were sent."""
        self.upgraded: list[tuple[str, str]] = []
        """Rooms of which their keepers know that they were replaced, and by what."""
        self.forged: set[str] = set()
        """Events that servers sent though the state before them forbids them."""

    async def act(self, times: int) -> None:
        upgrading = set(self._random.sample(range(times), UPGRADES))
        for number in range(times):
            await asyncio.sleep(self._random.choice((0.0, 0.01, 0.5, 2.0)))
            node = self._random.choice([node for node in self._nodes if node.is_up])
            with suppress(Killed):
                await node.process.run(self._upgrade(node) if number in upgrading else self._act(node))

    async def _act(self, node: Node) -> None:
        room = await self._some_room(node)
        if replacement(room) is not None and self._random.random() < 0.5:
            node.process.spawn(self.follow(node))
        sender = self._random.choice([keeper(node.name), *guests(node.name)])
        template = self._wish(room, sender)
        if room.partial is not None and template.type == MEMBER:
            # Their server has them wait until it knows who is in the room.
            return
        try:
            self.acknowledged += await post(node.rooms, node.author, room, lambda head: [template])
        except MatrixError as error:
            if error.errcode != "M_FORBIDDEN":
                raise
            if self._random.random() < 0.3:
                self.forged.add(node.forge(room, template))

    async def _some_room(self, node: Node) -> Room:
        return await node.room(self._random.choice(await node.room_ids()))

    async def _upgrade(self, node: Node) -> None:
        """Have a server's keeper replace a room by one of its version, or of a later one."""
        old = await self._some_room(node)
        version = self._random.choice(VERSIONS[VERSIONS.index(old.version.identifier) :])
        creators = self._keepers_but(node) if ROOM_VERSIONS[version].privileged_creators else []
        while True:
            try:
                new = await node.upgrade.upgrade(old.room_id, keeper(node.name), version, creators)
            except MatrixError as error:
                # Its server does not know all members yet: they try again.
                if error.status != 503:
                    raise
            else:
                self.upgraded.append((old.room_id, new))
                return

    def _keepers_but(self, node: Node) -> list[str]:
        return [keeper(name) for name in self._names if name != node.name]

    async def follow(self, node: Node) -> bool:
        """Have a server's keeper join what their rooms were replaced by; whether others have let them in."""
        seen: set[str] = set()
        while new := set(await node.room_ids()) - seen:
            seen |= new
            for room_id in sorted(new):
                room = await node.room(room_id)
                if (successor := replacement(room)) is not None:
                    via = [server_name_of(room.head.state[TOMBSTONE, ""].sender), *self._names]
                    self._wanted[node.name, successor] = via
            for (name, room_id), via in list(self._wanted.items()):
                if name == node.name and not await node.join(room_id, keeper(name), via):
                    return False
        return True

    async def speak(self, node: Node, text: str) -> None:
        """Have a server's keeper say something in all of its rooms."""
        content = {"msgtype": "m.text", "body": text}
        template = EventTemplate("m.room.message", keeper(node.name), content)
        for room_id in await node.room_ids():
            room = await node.room(room_id)
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
            return EventTemplate(LEVELS, sender, content, state_key="")
        if kind == "own" and not sender.startswith("@keeper"):
            membership = self._random.choice(("join", "join", "join", "leave"))
            return EventTemplate(MEMBER, sender, {"membership": membership}, state_key=sender)
        if kind == "member":
            (target,) = self._some_guests(1)
            membership = self._random.choice(("ban", "leave", "leave", "invite"))
            return EventTemplate(MEMBER, sender, {"membership": membership}, state_key=target)
        if kind == "redaction" and not _is_spared(room, target := self._random.choice(room.timeline)):
            return _redaction(room, sender, target)
        return EventTemplate("m.room.message", sender, {"msgtype": "m.text", "body": str(number)})

    def _some_guests(self, count: int) -> list[str]:
        return self._random.sample([guest for name in self._names for guest in guests(name)], count)


def _is_spared(room: Room, event: RoomEvent) -> bool:
    """Whether the rules would judge otherwise once an event is redacted: servers that hear of that early and
    late need not agree.

    Before version 11 power levels lose who may invite; where the rules ask what a redaction redacts, it loses
    that.
    """
    loses_invite = event.type == LEVELS and bool(event.content.get("invite"))
    loses_target = event.type == REDACTION and room.version.redaction_auth
    return loses_target or (loses_invite and not room.version.redacts_in_content)


def _redaction(room: Room, sender: str, target: RoomEvent) -> EventTemplate:
    return EventTemplate(
        REDACTION,
        sender,
        {"redacts": target.event_id} if room.version.redacts_in_content else {},
        redacts=target.event_id,
        redacts_key=(target.type, target.state_key) if target.state_key is not None else None,
    )
