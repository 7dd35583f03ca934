"""Invites to people who were known by an e-mail address only, until they said who they are.

An identity server has vouched for them, to whichever server they chose, which asks the inviter's to invite
them. It does not show who it is: what counts is that the room has the keys with which it vouched.

spec: server-server "Third-party invites"
"""

import msgspec
import structlog

from federation.http import Auth, Call, post, put
from federation.inviting import Inviting
from federation.resident import Resident
from homeserver.errors import MatrixError, forbidden, invalid_param, not_found
from homeserver.protocol.identifiers import InvalidIdentifier, check_user_id, server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.rate_limits import RateLimits
from homeserver.rooms.third_party_invites import ThirdPartyInvites
from homeserver.users.accounts import Accounts
from rest.answers import Result
from rest.routes import Routes

log = structlog.get_logger(__name__)

ONBIND = "/_matrix/federation/v1/3pid/onbind"


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


class Claim(msgspec.Struct):
    room_id: str
    sender: str
    signed: JsonObject


class Bound(msgspec.Struct):
    mxid: str
    invites: list[Claim] = []


class ThirdPartyInviteRoutes(Routes):
    def __init__(
        self,
        resident: Resident,
        limits: RateLimits,
        inviting: Inviting,
        third_party: ThirdPartyInvites,
        accounts: Accounts,
        server_name: str,
    ) -> None:
        self._resident = resident
        self._limits = limits
        self._inviting = inviting
        self._third_party = third_party
        self._accounts = accounts
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
        if room.membership_of(wanted.state_key) == "join":
            # The auth rules would let them be invited out of the room.
            return {}
        signed = wanted.content.third_party_invite.signed
        template = await self._third_party.vouched(room, wanted.sender, wanted.state_key, signed)
        await self._inviting.invite(room, template)
        return {}

    @put(ONBIND, auth=Auth.NONE)
    @post(ONBIND, auth=Auth.NONE)  # So it is called by Sydent, and in the prose of the specification.
    async def bound(self, call: Call) -> Result:
        self._third_party.check_any()
        told = call.json(Bound)
        account = await self._accounts.get(told.mxid)
        if account is None or account.deactivated:
            raise not_found("There is no such user")
        postponed: MatrixError | None = None
        for claim in told.invites:
            try:
                await self._third_party.claim(claim.room_id, claim.sender, told.mxid, claim.signed)
            except (MatrixError, InvalidIdentifier) as error:
                log.info("not invited", room_id=claim.room_id, user_id=told.mxid, reason=str(error))
                if isinstance(error, MatrixError) and (error.status == 429 or error.status >= 500):
                    postponed = error
        if postponed is not None:
            # The identity server will tell it all again.
            raise postponed
        return {}
