"""Events of another server that do not come in one line: how many of them a server takes in a second."""

import asyncio
import time
from collections.abc import Callable, Sequence
from urllib.parse import quote

import orjson

from bench.http1 import Connection
from bench.matrix import Account, JsonObject
from bench.peer import Peer
from bench.scenarios.scenario import Scenario
from homeserver.protocol.events import Event

_AT_ONCE = 10
"""Events in a transaction. Of more Synapse loses some that overtake one another: it asks for ten at most."""
_STATE_EVERY = 5
_KEYS = 20
"""State keys about which the branches differ."""
_FORKS = 20
_BRANCHES = 4
_SHOWN_SECONDS = 600.0
_LOOK_SECONDS = 0.02

Shape = Callable[[int], Sequence[int]]
"""The number of an event → the numbers of those that it follows upon; -1: the room as it was."""


def line(number: int) -> Sequence[int]:
    """Each upon the one before."""
    return [number - 1]


def wide(number: int) -> Sequence[int]:
    """Twenty upon the same event, and one that joins them."""
    place = number % (_FORKS + 1)
    joins = number - place - 1
    return [joins] if place < _FORKS else range(joins + 1, number)


def deep(number: int) -> Sequence[int]:
    """Branches as long as it takes, that know nothing of one another."""
    return [max(number - _BRANCHES, -1)]


def laddered(number: int) -> Sequence[int]:
    """Two branches, each event of which follows upon the newest of both."""
    rung = number - number % 2
    return [rung - 2, rung - 1] if rung else [-1]


_SHAPES: tuple[Shape, ...] = (line, wide, deep, laddered)


class Graphs(Scenario):
    name = "graphs"
    about = "events of another server in a line, in wide forks, in long branches and in ladders"
    pair = True

    async def prepare(self) -> None:
        load = self.load
        assert load.attach.own_name is not None
        (self.creator,) = await load.accounts(1)
        self.peer = Peer(load.attach.own_name, load.attach.server_name)
        await self.peer.open()

    async def measure(self) -> None:
        for shape in _SHAPES:
            await self._receive(shape)

    async def _receive(self, shape: Shape) -> None:
        load, count = self.load, self.sizes.graph
        room = await load.room([self.creator])
        events = await self._drawn(room, shape, count)
        (connection,) = await load.connect(1)
        try:
            async with load.section(f"receive {shape.__name__} graph of {count} events") as section:
                begun = time.perf_counter()
                for first in range(0, count, _AT_ONCE):
                    some = events[first : first + _AT_ONCE]
                    at = time.perf_counter()
                    await self.peer.send(load.new_name(), some)
                    for _ in some:
                        section.add(time.perf_counter() - at)
                # A server may answer before it has looked at what it got.
                await _shown(connection, self._look(self.creator, room, events[-1].event_id))
                section.seconds = time.perf_counter() - begun
        finally:
            connection.close()
        state = {event["state_key"] for event in await self._state(room) if event["type"] == "bench.state"}
        if len(state) < _KEYS:
            load.mistake(f"{shape.__name__}: {len(state)} of {_KEYS} state keys are there")

    async def _drawn(self, room: str, shape: Shape, count: int) -> list[Event]:
        """The events, by a user who may send state."""
        load = self.load
        await self.peer.join(room)
        state = {event["type"]: event for event in await self._state(room)}
        levels = dict(state["m.room.power_levels"]["content"])
        levels["users"] = {**levels.get("users", {}), self.peer.user_id: 50}
        request = load.api.room("PUT", self.creator, room, "state/m.room.power_levels", levels)
        newest = (await load.call(request))["event_id"]
        own = next(e for e in await self._state(room) if e.get("state_key") == self.peer.user_id)
        grounds = [state["m.room.create"]["event_id"], newest, own["event_id"]]
        ids, depths = {-1: newest}, {-1: int((await self.peer.fetch(newest))["depth"])}
        events: list[Event] = []
        for number in range(count):
            follows = shape(number)
            depths[number] = max(depths[each] for each in follows) + 1
            is_state = number % _STATE_EVERY == 0
            event = self.peer.event(
                room,
                "bench.state" if is_state else "m.room.message",
                {"msgtype": "m.text", "body": f"event {number}"},
                [ids[each] for each in follows],
                grounds,
                depths[number],
                state_key=str(number // _STATE_EVERY % _KEYS) if is_state else None,
            )
            ids[number] = event.event_id
            events.append(event)
        return events

    async def _state(self, room: str) -> list[JsonObject]:
        (connection,) = await self.load.connect(1)
        response = await connection.request(self.load.api.room("GET", self.creator, room, "state"))
        connection.close()
        state: list[JsonObject] = orjson.loads(response.body)
        return state

    def _look(self, account: Account, room: str, event_id: str) -> bytes:
        return self.load.api.room("GET", account, room, f"event/{quote(event_id, safe='')}")


async def _shown(connection: Connection, look: bytes) -> None:
    """Wait until a client is shown an event. Raises TimeoutError."""
    async with asyncio.timeout(_SHOWN_SECONDS):
        while (await connection.request(look)).status != 200:
            await asyncio.sleep(_LOOK_SECONDS)
