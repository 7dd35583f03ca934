"""Invites of other servers to users of this one.

An invite is agreed to by signing it. It is written down where this server is not in the room; where it is, it
comes with the other events of the room.

spec: server-server "Inviting to a room"
"""

from collections.abc import Sequence
from typing import Any

from federation.gate import Dropped, Gate, no_event, unchecked_event
from federation.resident import incompatible
from homeserver.errors import forbidden, invalid_param
from homeserver.graph.outside import Outside
from homeserver.protocol.events import Event, InvalidEvent, load_event
from homeserver.protocol.identifiers import server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import sign_event
from homeserver.rate_limits import RateLimits
from homeserver.rooms.authoring import Author
from homeserver.rooms.membership import InvitePermission
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import server_acl, takes_part
from homeserver.rooms.stripped import preview_of
from homeserver.users.accounts import Accounts


class ReceivedInvites:
    """Agrees to invites in the name of users."""

    def __init__(
        self,
        rooms: Rooms,
        accounts: Accounts,
        permission: InvitePermission,
        limits: RateLimits,
        author: Author,
        gate: Gate,
        outside: Outside,
    ) -> None:
        self._rooms = rooms
        self._accounts = accounts
        self._permission = permission
        self._limits = limits
        self._author = author
        self._gate = gate
        self._outside = outside

    async def take(
        self,
        server: str,
        room_id: str,
        event_id: str,
        room_version: str,
        pdu: JsonObject,
        told: Sequence[Any],
    ) -> JsonObject:
        """The invite with this server's signature; `told` is what its user may be shown of the room.

        Raises 400 for what is none or of a room version that is not known here, 403 for whom this server does
        not let invite, or who does not want it, and 429.
        """
        version = ROOM_VERSIONS.get(room_version)
        if version is None:
            raise incompatible(room_version)
        try:
            user_id = self._check(server, event_id, unchecked_event(version, pdu))
        except InvalidEvent as error:
            raise no_event(error) from error
        (event,) = await self._gate.admit(version, room_id, [pdu])
        if isinstance(event, Dropped):
            raise invalid_param(event.reason)
        room = await self._rooms.get(room_id)
        if room is not None and not server_acl(room).allows(server):
            raise forbidden("Your server is not allowed in this room")
        account = await self._accounts.get(user_id)
        if account is None or account.deactivated:
            raise forbidden("There is no such user")
        await self._permission.check_invite(user_id)
        shown = await self._gate.face(version, room_id, told)
        if version.room_id_is_create_hash and not any(pdu["type"] == "m.room.create" for pdu in shown):
            raise invalid_param("invite_room_state: the room's create event is missing")
        signed = sign_event(version, event.pdu, self._author.server_name, self._author.key)
        if room is None or not takes_part(room, self._author.server_name):
            preview = preview_of(room_version, server, shown, user_id)
            await self._outside.note(load_event(version, signed, event_id), preview)
        return signed

    def _check(self, server: str, event_id: str, event: Event) -> str:
        """Who is invited, by an event that nobody has looked at closely yet.

        Raises 400 unless it is a user of this server, by one of the other, and 429.
        """
        if event.event_id != event_id:
            raise invalid_param(f"The event is {event.event_id}, not the one that the path names")
        if event.type != "m.room.member" or event.content.get("membership") != "invite":
            raise invalid_param("The event is no invite")
        if server_name_of(event.sender) != server:
            raise invalid_param("The invite is not by a user of your server")
        if event.state_key is None or not self._accounts.is_local(event.state_key):
            raise invalid_param("The invite is for no user of this server")
        self._limits.charge("invite", event.sender)
        self._limits.charge("invite", f"of other servers: {event.state_key}")
        return event.state_key
