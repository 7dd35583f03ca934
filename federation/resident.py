"""Users of other servers who come into rooms of this one, leave them, or knock.

Their server is not in the room, and does not know upon what to build: it gets a template, and hands back the
event that it made of it. That is checked like every other event, and by what this act is about; from here the
servers in the room learn of it.

spec: server-server "Joining Rooms", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)"
"""

from collections.abc import Sequence

from federation.gate import Dropped, Gate, no_event
from homeserver.bus.replica import Replica
from homeserver.errors import MatrixError, forbidden, invalid_param, not_found
from homeserver.graph.receiving import Missing, Outcome, Receiver
from homeserver.graph.under_way import UnderWay
from homeserver.protocol.events import Event, InvalidEvent, parse_pdu
from homeserver.protocol.identifiers import check_user_id, server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.signing import sign_event
from homeserver.rate_limits import RateLimits
from homeserver.rooms.authoring import Author, EventTemplate
from homeserver.rooms.restricted import AUTHORISER, RestrictedJoins
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import server_acl, takes_part


class Resident:
    """This server as one that is in a room, for those that are not."""

    def __init__(
        self,
        rooms: Rooms,
        author: Author,
        restricted: RestrictedJoins,
        limits: RateLimits,
        gate: Gate,
        receiver: Receiver,
        replica: Replica,
        under_way: UnderWay,
    ) -> None:
        self._rooms = rooms
        self._author = author
        self._restricted = restricted
        self._limits = limits
        self._gate = gate
        self._receiver = receiver
        self._replica = replica
        self._under_way = under_way

    async def room(self, room_id: str, server: str) -> Room:
        """The room as this server has it for another one.

        Raises 404, 403 for a server shut out, and 503.
        """
        # Who was invited at another replica comes at once.
        await self._replica.refresh([self._rooms.shards.of_room(room_id)])
        room = await self._rooms.get(room_id)
        if room is None or not takes_part(room, self._author.server_name):
            raise not_found("This server is not in the room")
        if room.partial is not None:
            raise not_found("This server does not know all members of the room yet")
        if not server_acl(room).allows(server):
            raise forbidden("Your server is not allowed in this room")
        return room

    async def template(
        self, server: str, room_id: str, user_id: str, membership: str, versions: Sequence[str] | None
    ) -> JsonObject:
        """The member event that would do, for a server to sign.

        `versions`: the room versions that it knows, if it says so. Raises 400 where it does not know the
        room's, and for a restricted join that this server cannot allow; 403 by the auth rules; 404.
        """
        if server_name_of(check_user_id(user_id)) != server:
            raise forbidden("The user is not one of your server's")
        await self._under_way.settled(room_id, user_id)
        room = await self.room(room_id, server)
        version = room.version.identifier
        if versions is not None and version not in versions:
            raise incompatible(version)
        content: JsonObject = {"membership": membership}
        if membership == "join" and self._restricted.concern(room, user_id):
            content[AUTHORISER] = await self._restricted.authoriser(room, user_id)
        template = EventTemplate("m.room.member", user_id, content, state_key=user_id)
        event = {**self._author.for_another(room, template), "origin": self._author.server_name}
        return {"room_version": version, "event": event}

    async def take(self, server: str, room: Room, event_id: str, membership: str, pdu: JsonObject) -> Event:
        """The event that a server made of a template, once it is in the room.

        Raises 400 M_INVALID_PARAM for what is none, 400 and 403 as `template`, and 429.
        """
        try:
            event = parse_pdu(room.version, pdu)
        except InvalidEvent as error:
            raise no_event(error) from error
        _check_own_membership(server, membership, event)
        if membership != "leave":
            self._limits.charge("join", event.sender)
        if event.event_id != event_id:
            raise invalid_param(f"The event is {event.event_id}, not the one that the path names")
        authoriser = event.content.get(AUTHORISER)
        if isinstance(authoriser, str) and authoriser.endswith(":" + self._author.server_name):
            if membership == "join" and self._restricted.concern(room, event.sender):
                await self._restricted.check(room, event.sender)
            pdu = sign_event(room.version, pdu, self._author.server_name, self._author.key)
        (admitted,) = await self._gate.admit(room.version, room.room_id, [pdu])
        if isinstance(admitted, Dropped):
            raise invalid_param(admitted.reason)
        try:
            outcome = await self._receiver.receive(room, admitted, relay=True)
        except Missing:
            raise invalid_param("The event follows upon others than those of the template") from None
        if outcome is not Outcome.ACCEPTED:
            raise forbidden("The room does not allow it")
        return admitted


def incompatible(version: str) -> MatrixError:
    """Of a room whose version one of the servers does not know."""
    return MatrixError(
        400,
        "M_INCOMPATIBLE_ROOM_VERSION",
        f"The room has version {version}",
        room_version=version,
    )


def _check_own_membership(server: str, membership: str, event: Event) -> None:
    """Raises 400 unless this is such a membership of a user of the server, by themselves."""
    if event.type != "m.room.member" or event.content.get("membership") != membership:
        raise invalid_param(f"The event is no {membership} of a member")
    if event.state_key != event.sender or server_name_of(event.sender) != server:
        raise invalid_param("The event is not about a user of your server, by themselves")
