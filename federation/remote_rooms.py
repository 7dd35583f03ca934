"""Rooms of other servers: users of this one come in, knock, and are rid of invites, by way of a server there.

Of the servers that may be in a room one after the other is asked, until one does what is wanted. What comes
back is believed as far as its events are signed and allow one another; the rest is for `homeserver.graph`.

spec: server-server "Joining Rooms", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)"
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import structlog

from federation.client import FederationClient, request_target
from federation.errors import FederationError, InvalidAnswer, RemoteError
from federation.gate import Dropped, Gate
from federation.inviting import Inviting
from federation.missing_events import MissingEvents
from federation.templates import Templates
from homeserver.errors import MatrixError, forbidden, not_found
from homeserver.graph.arrival import Arrival, NoSuchRoom
from homeserver.graph.outside import Outside
from homeserver.graph.receiving import Missing, Outcome
from homeserver.graph.under_way import UnderWay
from homeserver.protocol.events import Event, build_event
from homeserver.protocol.identifiers import (
    InvalidIdentifier,
    check_room_id,
    check_server_name,
    server_name_of,
)
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.rooms.authoring import Author, EventTemplate
from homeserver.rooms.elsewhere import Located
from homeserver.rooms.event_meta import Preview
from homeserver.rooms.restricted import AUTHORISER, UNABLE_TO_AUTHORISE, UNABLE_TO_GRANT
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import takes_part
from homeserver.rooms.stripped import preview_of

log = structlog.get_logger(__name__)

V1 = "/_matrix/federation/v1"
V2 = "/_matrix/federation/v2"
MAX_NAMED = 100
"""Servers that another one names as being in a room."""
MAX_IN_ROOM = 20_000
"""Servers that may be in a room."""
MAX_SERVERS = 8
"""So many servers are asked for one thing."""
JOINS_AT_ONCE = 8
"""Rooms brought in at once: each may take as much memory as its answer has bytes, several times."""
JOIN_SECONDS = 240.0
"""For all attempts at a join."""
STATE_SECONDS = 120.0
"""For the answer to one, which may be the state of a large room."""
MAX_JOIN_BYTES = 64 * 1024 * 1024
MAX_JOIN_EVENTS = 200_000
WHOLE_SECONDS = 0.5
"""So long a join waits for members that were left out: of a small room nobody need see that it is partial."""
SMALL_STATE = 500
"""Events. Rooms with more have more members, too, than come in that time."""
SECONDS = 20.0
LEAVE_SECONDS = 30.0
"""For all attempts to have others know: the user waits for them, and is rid of the room in any case."""
MAX_BYTES = 1024 * 1024
MAX_VERSION = 32
"""Characters in the name of a room version (spec: rooms, "Room version grammar")."""

OMITTING = {"omit_members": "true"}
"""Asked of a server for a join: the members of the room come later, or are known. Not for a room that was
left: of its members some would be there, and outdated."""

INCOMPATIBLE = "M_INCOMPATIBLE_ROOM_VERSION"
PASSED_ON = {
    "M_FORBIDDEN": 403,
    "M_NOT_FOUND": 404,
    INCOMPATIBLE: 400,
    UNABLE_TO_AUTHORISE: 400,
    UNABLE_TO_GRANT: 400,
}
"""What another server may say that its users' clients are told; its own troubles are not theirs."""

R = TypeVar("R")


class RemoteRooms:
    """The `Elsewhere` of a server among others."""

    def __init__(
        self,
        rooms: Rooms,
        author: Author,
        client: FederationClient,
        gate: Gate,
        arrival: Arrival,
        missing: MissingEvents,
        outside: Outside,
        inviting: Inviting,
        under_way: UnderWay,
    ) -> None:
        self._rooms = rooms
        self._author = author
        self._client = client
        self._gate = gate
        self._arrival = arrival
        self._missing = missing
        self._outside = outside
        self._inviting = inviting
        self._under_way = under_way
        self._templates = Templates(client, author)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Room → who wants to bring it in, one after the other."""
        self._slots = asyncio.Semaphore(JOINS_AT_ONCE)

    async def invite(self, room: Room, template: EventTemplate) -> str:
        return await self._inviting.invite(room, template)

    async def claim(self, room_id: str, inviter: str, user_id: str, signed: JsonObject) -> None:
        # The room has a name for them, but the specification wants one here, too.
        invite: JsonObject = {"display_name": user_id, "signed": signed}
        event: JsonObject = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": inviter,
            "state_key": user_id,
            "content": {"membership": "invite", "third_party_invite": invite},
        }

        async def ask(server: str) -> None:
            target = request_target(f"{V1}/exchange_third_party_invite", room_id)
            await self._client.put(server, target, event, seconds=SECONDS, max_bytes=MAX_BYTES)

        inviters = server_name_of(inviter)
        await self._of_first([inviters] if inviters != self._author.server_name else [], ask)

    async def locate(self, alias: str) -> Located:
        async def ask(server: str) -> Located:
            target = request_target(f"{V1}/query/directory", query={"room_alias": alias})
            answer = await self._client.get(server, target, seconds=SECONDS, max_bytes=MAX_BYTES)
            servers = answer.get("servers")
            try:
                room_id = check_room_id(_string(server, answer, "room_id"))
            except InvalidIdentifier as error:
                raise InvalidAnswer(server, str(error)) from None
            return Located(room_id, list(dict.fromkeys([*_server_names(servers)[:MAX_NAMED], server])))

        return await self._of_first([server_name_of(alias)], ask)

    # Joining

    async def join(self, room_id: str, user_id: str, content: JsonObject, via: Sequence[str]) -> str | None:
        async with self._turns.setdefault(room_id, asyncio.Lock()):
            room = await self._rooms.get(room_id)
            if room is not None and takes_part(room, self._author.server_name):
                return None
            servers = self._servers(room_id, room, user_id, via)

            async def bring_in(server: str) -> str:
                return await self._bring_in(server, room_id, user_id, content)

            try:
                with self._under_way.during(room_id):
                    async with asyncio.timeout(JOIN_SECONDS):
                        return await self._of_first(servers, bring_in)
            except TimeoutError:
                raise MatrixError(504, "M_UNKNOWN", "The servers in the room take too long") from None

    async def _bring_in(self, server: str, room_id: str, user_id: str, content: JsonObject) -> str:
        made = await self._templates.fill(server, room_id, user_id, content)
        known = await self._rooms.get(room_id)
        query = OMITTING if known is None or not known.head.tips else None
        async with self._slots:
            answer = await self._send(
                server, V2, made, query=query, seconds=STATE_SECONDS, max_bytes=MAX_JOIN_BYTES
            )
            servers = _servers_in_room(server, answer) if answer.get("members_omitted") else ()
            if servers and query is None:
                raise InvalidAnswer(server, "it leaves members out, unasked")
            told = [_events(server, answer, key) for key in ("state", "auth_chain")]
            join = await self._countersigned(server, made, answer)
            state, chain = [await self._gate.admitted(made.version, room_id, each) for each in told]
            try:
                arrived = await self._arrival.arrive(state, chain, join, without_members=servers)
            except NoSuchRoom as error:
                raise InvalidAnswer(server, str(error)) from error
        if servers and len(state) <= SMALL_STATE:
            await self._rooms.wait_until_whole(room_id, WHOLE_SECONDS)
        if not arrived:
            # Another replica has brought it in; this join is one like others.
            room = await self._rooms.get(room_id)
            assert room is not None
            await self._enter(server, await self._rooms.whole(room), join)
        return join.event_id

    async def _enter(self, server: str, room: Room, join: Event) -> None:
        """Put a join that `server` has taken into a room that this server is in."""
        try:
            outcome = await self._missing.receive(room, join, server, relay=True)
        except Missing as error:
            raise InvalidAnswer(server, str(error)) from error
        if outcome is not Outcome.ACCEPTED:
            raise forbidden("The room does not allow you to join")

    async def _countersigned(self, server: str, made: Event, answer: JsonObject) -> Event:
        """The join with the signature of the server in whose user's name it may be; nothing else is taken."""
        authoriser = made.content.get(AUTHORISER)
        if authoriser is None:
            return made
        event = answer.get("event")
        signatures = event.get("signatures") if isinstance(event, dict) else None
        name = server_name_of(authoriser)
        theirs = signatures.get(name) if isinstance(signatures, dict) else None
        pdu = {**made.pdu, "signatures": {**made.pdu["signatures"], name: theirs}}
        (join,) = await self._gate.admit(made.version, made.room_id, [pdu])
        if isinstance(join, Dropped):
            raise InvalidAnswer(server, f"the join is not signed as it has to be: {join.reason}")
        return join

    async def join_authorised(self, room: Room, user_id: str, content: JsonObject) -> str:
        async def ask(server: str) -> str:
            made = await self._templates.fill(server, room.room_id, user_id, content)
            answer = await self._send(
                server, V2, made, query=OMITTING, seconds=SECONDS, max_bytes=MAX_JOIN_BYTES
            )
            join = await self._countersigned(server, made, answer)
            await self._enter(server, room, join)
            return join.event_id

        return await self._of_first(self._servers(room.room_id, room, user_id, ()), ask)

    # Outside

    async def knock(self, room_id: str, user_id: str, content: JsonObject, via: Sequence[str]) -> str:
        room = await self._rooms.get(room_id)
        before = room.head.lookup("m.room.member", user_id) if room is not None else None

        async def ask(server: str) -> str:
            made = await self._templates.fill(server, room_id, user_id, content)
            answer = await self._send(server, V1, made)
            told = _events(server, answer, "knock_room_state")
            face = await self._gate.face(made.version, room_id, told)
            preview = preview_of(made.version.identifier, server, face, user_id)
            await self._outside.note_own(made, preview, before)
            return made.event_id

        with self._under_way.during(room_id):
            return await self._of_first(self._servers(room_id, room, user_id, via), ask)

    async def leave(self, room: Room, user_id: str, content: JsonObject) -> str:
        own = room.head.state["m.room.member", user_id]
        version = room.version.identifier if own.preview is None else own.preview.room_version

        async def ask(server: str) -> tuple[Event, str]:
            made = await self._templates.fill(server, room.room_id, user_id, content)
            if made.version.identifier != version:
                raise InvalidAnswer(server, "the room has another version")
            await self._send(server, V2, made)
            return made, server

        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                left, server = await self._of_first(self._servers(room.room_id, room, user_id, ()), ask)
        except (MatrixError, TimeoutError) as error:
            log.info("others do not know who left", room_id=room.room_id, user_id=user_id, reason=str(error))
            left, server = self._left_alone(room.room_id, version, user_id, own), ""
        await self._outside.note_own(left, Preview(room_version=version, server=server), own)
        return left.event_id

    def _left_alone(self, room_id: str, version: str, user_id: str, own: RoomEvent) -> Event:
        """The end of a membership of which nobody else is told: it follows upon that alone."""
        event, _ = build_event(
            ROOM_VERSIONS[version],
            server_name=self._author.server_name,
            key=self._author.key,
            room_id=room_id,
            type="m.room.member",
            sender=user_id,
            state_key=user_id,
            content={"membership": "leave"},
            prev_events=[own.event_id],
            auth_events=[own.event_id],
            depth=own.depth,
            origin_server_ts=self._author.now(),
            reference_hashes={own.event_id: own.reference_hash or ""},
        )
        return event

    # Servers

    def _servers(self, room_id: str, room: Room | None, user_id: str, via: Sequence[str]) -> list[str]:
        """Who may be asked for a room, the likeliest first."""
        servers = dict.fromkeys(via)
        own = room.head.state.get(("m.room.member", user_id)) if room is not None else None
        if own is not None:
            if own.preview is not None:
                servers[own.preview.server] = None
            servers[server_name_of(own.sender)] = None
        if room is not None:
            servers.update(dict.fromkeys(sorted(room.servers)))
        if ":" in room_id:
            servers[server_name_of(room_id)] = None
        servers.pop(self._author.server_name, None)
        return _server_names(list(servers))[:MAX_SERVERS]

    async def _send(
        self,
        server: str,
        api: str,
        event: Event,
        *,
        query: dict[str, str] | None = None,
        seconds: float = SECONDS,
        max_bytes: int = MAX_BYTES,
    ) -> JsonObject:
        """Hand a member event that was made of a template to who made that."""
        path = f"{api}/send_{event.content['membership']}"
        target = request_target(path, event.room_id, event.event_id, query=query)
        return await self._client.put(server, target, event.pdu, seconds=seconds, max_bytes=max_bytes)

    async def _of_first(self, servers: Sequence[str], ask: Callable[[str], Awaitable[R]]) -> R:
        """What the first server gives that does. Raises the first reason that one gives, or 502, 404."""
        refusal: MatrixError | None = None
        for server in servers:
            try:
                return await ask(server)
            except FederationError as error:
                log.info("another server does not help", server=server, reason=error.reason)
                if isinstance(error, RemoteError) and error.errcode in PASSED_ON and refusal is None:
                    refusal = _passed_on(error)
        if not servers:
            raise not_found("No server is known that may be in the room")
        raise refusal or MatrixError(502, "M_UNKNOWN", "No server that is in the room answers")


def _passed_on(error: RemoteError) -> MatrixError:
    """What a client is told; of a room that this server does not understand, which version it has, too."""
    version = error.content.get("room_version")
    says_version = error.errcode == INCOMPATIBLE and isinstance(version, str) and len(version) <= MAX_VERSION
    extra = {"room_version": version} if says_version else {}
    return MatrixError(PASSED_ON[error.errcode], error.errcode, error.error, **extra)


def _string(server: str, answer: JsonObject, key: str) -> str:
    value = answer.get(key)
    if not isinstance(value, str):
        raise InvalidAnswer(server, f"{key} is missing, or no string")
    return value


def _events(server: str, answer: JsonObject, key: str) -> list[Any]:
    events = answer.get(key)
    if not isinstance(events, list) or len(events) > MAX_JOIN_EVENTS:
        raise InvalidAnswer(server, f"{key} is missing, or no list of at most {MAX_JOIN_EVENTS}")
    return events


def _servers_in_room(server: str, answer: JsonObject) -> list[str]:
    """The servers in a room whose members are left out, the one that says so first."""
    named = _server_names(answer.get("servers_in_room"))
    if not named or len(named) > MAX_IN_ROOM:
        raise InvalidAnswer(server, f"servers_in_room is missing, or names more than {MAX_IN_ROOM}")
    return list(dict.fromkeys([server, *named]))


def _server_names(names: Any) -> list[str]:
    """Those of some names that servers may have."""
    found: list[str] = []
    for name in names if isinstance(names, list) else []:
        with suppress(InvalidIdentifier):
            if isinstance(name, str):
                found.append(check_server_name(name))
    return found
