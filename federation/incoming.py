"""Events that other servers send, into their rooms.

An event whose forerunners are known is taken at once. Another is staged, which is durable, and acknowledged;
behind the scenes it is completed with what it follows upon. So no room and no server holds up another.

spec: server-server#pdus
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import orjson
import structlog

from federation.backoff import Silence
from federation.errors import FederationError
from federation.gate import Dropped, Gate
from federation.missing_events import MissingEvents
from homeserver.clock import Clock
from homeserver.errors import MatrixError
from homeserver.graph.merging import Merging
from homeserver.graph.outside import Outside
from homeserver.graph.receiving import Missing, Outcome, Receiver
from homeserver.graph.under_way import UnderWay
from homeserver.protocol.events import Event, parse_pdu
from homeserver.protocol.identifiers import server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.signing import encode_event
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import server_acl, takes_part
from homeserver.tasks import end
from storage.collection import Collection
from storage.errors import StoreError
from storage.records.staged_events import StagedEvent

log = structlog.get_logger(__name__)

MAX_STAGED = 500
"""Events that may wait in one room."""
MAX_ROOMS = 50
"""Rooms completed at once."""
OTHER_SERVERS = 3
"""So many other servers of the room are asked when the one that sent an event does not answer."""
FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 600.0
SWEEP_SECONDS = 60.0
GIVEN_UP_AFTER_MS = 24 * 3600 * 1000

NOT_ALLOWED = "The event is not allowed"
SHUT_OUT = "Your server is not allowed in this room"
ABSENT = "This server is not in the room"

Results = dict[str, str | None]
"""Event id → what is wrong with it, None: nothing, as far as its sender is concerned."""


class _Waiting(NamedTuple):
    """Events of a room that wait for what they follow upon."""

    events: int
    since: int
    """When the first of them came."""


class _Completion:
    """The work on what waits in a room."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.more = asyncio.Event()
        """Set when there is more than there was."""


class Incoming:
    """Takes events of other servers."""

    def __init__(
        self,
        server_name: str,
        rooms: Rooms,
        gate: Gate,
        receiver: Receiver,
        missing: MissingEvents,
        outside: Outside,
        under_way: UnderWay,
        merging: Merging,
        staged: Collection[StagedEvent],
        owns: Callable[[int], bool],
        now: Clock,
    ) -> None:
        """`owns`: whether this replica is the owner of a room shard."""
        self._server_name = server_name
        self._rooms = rooms
        self._gate = gate
        self._receiver = receiver
        self._missing = missing
        self._outside = outside
        self._under_way = under_way
        self._merging = merging
        self._staged = staged
        self._owns = owns
        self._now = now
        self._slots = asyncio.Semaphore(MAX_ROOMS)
        self._completions: dict[str, _Completion] = {}
        self._waiting: dict[str, _Waiting] = {}
        """Room → what waits there, as far as this replica knows."""

    async def take(self, origin: str, room_id: str, pdus: Sequence[JsonObject]) -> Results:
        """Events of one room, in the order in which the origin sent them.

        Raises StoreError, MatrixError 503.
        """
        # Whoever denies a knock, or greets who joins, may be faster than the answer to that.
        await self._under_way.settled(room_id)
        room = await self._rooms.get(room_id)
        if room is None:
            return {}
        results: Results = {}
        admitted = await self._gate.admit(room.version, room_id, pdus)
        if self._turned_away(room, origin) is not None:
            # Another replica may have come into the room just now.
            await self._rooms.catch_up(room)
        why = self._turned_away(room, origin)
        events = [each for each in admitted if isinstance(each, Event)]
        for each in admitted:
            if isinstance(each, Dropped) and each.event_id is not None:
                results[each.event_id] = each.reason
        if why is not None:
            for event in events:
                ends = why is ABSENT and await self._outside.end(event)
                results[event.event_id] = None if ends else why
            return results
        if room.partial is not None:
            # Who may say what is known once the members are.
            return results | {event.event_id: await self._stage(origin, room, event) for event in events}
        try:
            outcomes = await self._receiver.receive_all(room, events)
            await self._merging.merge(room)
        except (StoreError, MatrixError):
            raise
        except Exception:
            # Whatever is wrong with them, they would come again and again.
            log.exception("events cannot be taken", room_id=room_id, origin=origin)
            return results | {event.event_id: "The event cannot be taken" for event in events}
        for event, outcome in zip(events, outcomes, strict=True):
            if isinstance(outcome, Missing):
                results[event.event_id] = await self._stage(origin, room, event)
            else:
                results[event.event_id] = NOT_ALLOWED if outcome is Outcome.REJECTED else None
        return results

    def _turned_away(self, room: Room, origin: str) -> str | None:
        """Why nothing of a room is taken from a server, if it is so."""
        if not server_acl(room).allows(origin):
            return SHUT_OUT
        return ABSENT if self._server_name not in room.servers else None

    async def _stage(self, origin: str, room: Room, event: Event) -> str | None:
        none = _Waiting(0, self._now())
        if self._waiting.get(room.room_id, none).events >= MAX_STAGED:
            return "Too many events of this room wait for what they follow upon"
        await self._staged.put(
            StagedEvent(
                room_id=room.room_id,
                event_id=event.event_id,
                origin=origin,
                body=encode_event(event.version, event.pdu),
                received_ts=self._now(),
            )
        )
        waiting = self._waiting.get(room.room_id, none)
        self._waiting[room.room_id] = waiting._replace(events=waiting.events + 1)
        self._complete_soon(room.room_id)
        return None

    def is_whole(self, room_id: str) -> None:
        """All members of a room are known: what waits for them need not wait longer."""
        self._complete_soon(room_id)

    def waiting(self) -> tuple[int, float]:
        """How many events wait, as far as this replica knows, and the first of them for how many seconds."""
        waiting = [each for each in self._waiting.values() if each.events]
        since = min((each.since for each in waiting), default=self._now())
        return sum(each.events for each in waiting), (self._now() - since) / 1000

    def heard_of(self, server: str, silence: Silence | None) -> None:
        """A server fails, or does not any more: what waits for it need not wait longer."""
        if silence is None:
            for completion in self._completions.values():
                completion.more.set()

    async def keep_sweeping(self) -> None:
        """Go on with what was staged before a stop, or by a replica that is gone, until cancelled."""
        while True:
            try:
                after = ""
                while some := await self._staged.find("key", (), after=after):
                    for room_id in {each.room_id for each in some}:
                        if self._owns(self._rooms.shards.of_room(room_id)):
                            self._complete_soon(room_id)
                    after = some[-1].room_id
            except StoreError as error:
                log.warning("staged events cannot be read", error=str(error))
            await asyncio.sleep(SWEEP_SECONDS)

    async def close(self) -> None:
        await end(each.task for each in self._completions.values())

    # Completing

    def _complete_soon(self, room_id: str) -> None:
        completion = self._completions.get(room_id)
        if completion is None:
            completion = self._completions[room_id] = _Completion()
            completion.task = asyncio.create_task(
                self._complete_room(room_id, completion.more), name="complete-room"
            )
        completion.more.set()

    async def _complete_room(self, room_id: str, more: asyncio.Event) -> None:
        """Until nothing of the room waits any more."""
        pause = FIRST_PAUSE_SECONDS
        try:
            while True:
                more.clear()
                try:
                    async with self._slots:
                        done, left = await self._complete_once(room_id)
                except (StoreError, MatrixError) as error:
                    log.warning("staged events wait", room_id=room_id, error=str(error))
                    done, left = 0, 1
                if not left and not more.is_set():
                    return
                pause = FIRST_PAUSE_SECONDS if done else min(pause * 2, LONGEST_PAUSE_SECONDS)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await more.wait()
        finally:
            del self._completions[room_id]
            self._waiting.pop(room_id, None)

    async def _complete_once(self, room_id: str) -> tuple[int, int]:
        """Go through what waits once: how many are settled, and how many are left."""
        staged = await self._staged.find("key", (room_id,), limit=MAX_STAGED)
        since = min((each.received_ts for each in staged), default=self._now())
        self._waiting[room_id] = _Waiting(len(staged), since)
        room = await self._rooms.get(room_id)
        # Who may say what in a room that was left while its members were unknown, nobody will ever know.
        if room is None or (room.partial is not None and not takes_part(room, self._server_name)):
            await self._staged.delete_where("key", (room_id,))
            return len(staged), 0
        if room.partial is not None:
            return 0, len(staged)
        waiting = [(parse_pdu(room.version, orjson.loads(each.body)), each) for each in staged]
        done = 0
        for event, each in sorted(waiting, key=lambda pair: pair[0].depth):
            if await self._completed(room, event, each):
                await self._staged.delete(room_id, event.event_id)
                waits = self._waiting[room_id]
                self._waiting[room_id] = waits._replace(events=waits.events - 1)
                done += 1
        return done, len(staged) - done

    async def _completed(self, room: Room, event: Event, staged: StagedEvent) -> bool:
        """Whether the event needs not wait any more."""
        for server in self._who_has(room, staged.origin):
            try:
                await self._missing.receive(room, event, server)
            except (FederationError, Missing) as error:
                log.info("event not completed", event_id=event.event_id, server=server, reason=str(error))
            except (StoreError, MatrixError):
                raise
            except Exception:
                log.exception("event cannot be completed", event_id=event.event_id, server=server)
            else:
                return True
        if self._now() < staged.received_ts + GIVEN_UP_AFTER_MS:
            return False
        log.warning(
            "given up: nobody has what it follows upon", room_id=room.room_id, event_id=event.event_id
        )
        return True

    def _who_has(self, room: Room, origin: str) -> list[str]:
        """Whom to ask for what an event of the origin follows upon, in this order."""
        others: dict[str, None] = {origin: None}
        for user_id in room.joined:
            if len(others) > OTHER_SERVERS:
                break
            server = server_name_of(user_id)
            if server != self._server_name and server_acl(room).allows(server):
                others[server] = None
        return list(others)
