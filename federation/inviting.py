"""Inviting users of other servers, which have to agree, and sign the invite.

spec: server-server "Inviting to a room"
"""

import orjson

from federation.client import FederationClient, request_target
from federation.errors import FederationError, InvalidAnswer, RemoteError
from federation.gate import Dropped, Gate
from homeserver.errors import MatrixError, forbidden
from homeserver.graph.receiving import Outcome, Receiver
from homeserver.graph.told import ToldGraph
from homeserver.graph.under_way import UnderWay
from homeserver.protocol.events import Event
from homeserver.protocol.identifiers import server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.signing import InvalidSignature
from homeserver.rooms.authoring import Author, EventTemplate
from homeserver.rooms.room import Room

SECONDS = 30.0
MAX_BYTES = 256 * 1024

OLDEST_VERSIONS = ("1", "2")
"""Room versions that were there before version 2 of the endpoint."""
PASSED_ON = {"M_FORBIDDEN": 403, "M_INVITE_BLOCKED": 403, "M_INCOMPATIBLE_ROOM_VERSION": 400}
"""What the other server may say that the inviter is told."""


class Inviting:
    """Sends invites out, and puts them into their rooms."""

    def __init__(
        self,
        author: Author,
        client: FederationClient,
        gate: Gate,
        receiver: Receiver,
        told: ToldGraph,
        under_way: UnderWay,
    ) -> None:
        self._author = author
        self._client = client
        self._gate = gate
        self._receiver = receiver
        self._told = told
        self._under_way = under_way

    async def invite(self, room: Room, template: EventTemplate) -> str:
        """Invite the user of another server whom the member event is about; its id.

        Raises MatrixError: 403 and what else their server says, 502 when it does not answer.
        """
        assert template.state_key is not None
        # They, or a program of theirs, may come before their server's answer is here.
        with self._under_way.during(room.room_id, template.state_key):
            return await self._invite(room, template, server_name_of(template.state_key))

    async def _invite(self, room: Room, template: EventTemplate, server: str) -> str:
        event = await self._author.event(room, template)
        face = [orjson.loads(pdu) for pdu in await self._told.face(room, template.sender)]
        try:
            signed = await self._sign(server, event, face)
        except RemoteError as error:
            if error.errcode in PASSED_ON:
                raise MatrixError(PASSED_ON[error.errcode], error.errcode, error.error) from error
            raise MatrixError(502, "M_UNKNOWN", "The user's server does not take the invite") from error
        except FederationError as error:
            raise MatrixError(502, "M_UNKNOWN", "The user's server cannot be reached") from error
        # Others may have done something in the room meanwhile: it is taken like an event that forks it.
        if await self._receiver.receive(room, signed) is not Outcome.ACCEPTED:
            raise forbidden("The room does not allow the invite any more")
        return event.event_id

    async def _sign(self, server: str, event: Event, face: list[JsonObject]) -> Event:
        """The event with the other server's signature. Raises FederationError."""
        version = event.version
        answer = await self._ask(server, event, face)
        returned = answer.get("event")
        signatures = returned.get("signatures") if isinstance(returned, dict) else None
        theirs = signatures.get(server) if isinstance(signatures, dict) else None
        pdu = {**event.pdu, "signatures": {**event.pdu["signatures"], server: theirs}}
        (signed,) = await self._gate.admit(version, event.room_id, [pdu])
        if isinstance(signed, Dropped):
            raise InvalidAnswer(server, signed.reason)
        try:
            # The rules for events ask for no other signature than the inviter's.
            await self._gate.check_signed(server, signed)
        except InvalidSignature as error:
            raise InvalidAnswer(server, str(error)) from error
        return signed

    async def _ask(self, server: str, event: Event, face: list[JsonObject]) -> JsonObject:
        """What the other server says; asked in the old way, too, where it may know no other."""
        path = (event.room_id, event.event_id)
        content: JsonObject = {
            "event": event.pdu,
            "invite_room_state": face,
            "room_version": event.version.identifier,
        }
        target = request_target("/_matrix/federation/v2/invite", *path)
        try:
            return await self._client.put(server, target, content, seconds=SECONDS, max_bytes=MAX_BYTES)
        except RemoteError as error:
            is_old = error.status in (400, 404) and error.errcode not in PASSED_ON
            if not is_old or event.version.identifier not in OLDEST_VERSIONS:
                raise
        target = request_target("/_matrix/federation/v1/invite", *path)
        content = {**event.pdu, "unsigned": {"invite_room_state": face}}
        return await self._client.put_v1(server, target, content, seconds=SECONDS, max_bytes=MAX_BYTES)
