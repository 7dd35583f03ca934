"""Invites to people who were known by an e-mail address only, until they said who they are.

An identity server has vouched for them, to whichever server they chose, which asks the inviter's to invite
them. This server works with no identity server, so none of its own users is known to one.

spec: server-server "Third-party invites"
"""

import msgspec

from federation.http import Auth, Call, put
from federation.inviting import Inviting
from federation.resident import Resident
from homeserver.errors import forbidden, invalid_param, no_identity_server
from homeserver.protocol.identifiers import check_user_id, server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.rate_limits import RateLimits
from homeserver.rooms.authoring import EventTemplate, check_content
from rest.answers import Result
from rest.routes import Routes


class ThirdPartyInvite(msgspec.Struct):
    """Its `display_name` is not read: the room has it, and Synapse sends none."""

    signed: JsonObject
    """As it was signed: with more than the specification names, where the identity server has more to say."""


class Content(msgspec.Struct):
    membership: str
    third_party_invite: ThirdPartyInvite


class PartialInvite(msgspec.Struct):
    type: str
    room_id: str
    sender: str
    state_key: str
    content: Content


class ThirdPartyInviteRoutes(Routes):
    def __init__(self, resident: Resident, limits: RateLimits, inviting: Inviting, server_name: str) -> None:
        self._resident = resident
        self._limits = limits
        self._inviting = inviting
        self._server_name = server_name

    @put("/_matrix/federation/v1/exchange_third_party_invite/{room_id}")
    async def exchange(self, call: Call) -> Result:
        wanted = call.json(PartialInvite)
        room = await self._resident.room(call.path("room_id"), call.origin)
        about = (wanted.type, wanted.room_id, wanted.content.membership)
        if about != ("m.room.member", room.room_id, "invite"):
            raise invalid_param("This is no invite to the room")
        if server_name_of(check_user_id(wanted.state_key)) != call.origin:
            raise invalid_param("The invite is not for a user of your server")
        if server_name_of(check_user_id(wanted.sender)) != self._server_name:
            raise forbidden("The inviter is not a user of this server")
        self._limits.charge("invite", wanted.state_key)
        signed = wanted.content.third_party_invite.signed
        waiting = room.state_content("m.room.third_party_invite", str(signed.get("token")))
        invite = {"display_name": waiting.get("display_name"), "signed": signed}
        content: JsonObject = {"membership": "invite", "third_party_invite": invite}
        check_content(content)
        template = EventTemplate("m.room.member", wanted.sender, content, state_key=wanted.state_key)
        await self._inviting.invite(room, template)
        return {}

    @put("/_matrix/federation/v1/3pid/onbind", auth=Auth.NONE)
    async def bound(self, call: Call) -> Result:
        raise no_identity_server()
