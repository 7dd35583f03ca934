"""Creating rooms and being a member of them (spec: client-server "Creation", "Room membership")."""

import msgspec

from client_api.http import Auth, Call, get, post
from homeserver.protocol.identifiers import check_room_id, check_user_id
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.creation import NewRoom
from homeserver.rooms.elsewhere import Located
from homeserver.rooms.guests import Guests
from homeserver.rooms.membership import Membership
from homeserver.rooms.new_room import NewRooms
from homeserver.rooms.third_party_invites import ByAddress, ThirdPartyInvites
from homeserver.rooms.upgrade import Upgrade
from homeserver.users.users import Users
from rest.answers import Result
from rest.routes import Routes


class Reason(msgspec.Struct):
    reason: str | None = None


class ThirdPartySigned(msgspec.Struct):
    sender: str


class JoinBody(Reason):
    third_party_signed: ThirdPartySigned | None = None


class Target(msgspec.Struct):
    user_id: str
    reason: str | None = None


class UpgradeBody(msgspec.Struct):
    new_version: str
    additional_creators: list[str] = []


class RoomRoutes(Routes):
    def __init__(
        self,
        new_rooms: NewRooms,
        membership: Membership,
        third_party: ThirdPartyInvites,
        aliases: Aliases,
        upgrade: Upgrade,
        guests: Guests,
        users: Users,
    ) -> None:
        self._new_rooms = new_rooms
        self._membership = membership
        self._third_party = third_party
        self._aliases = aliases
        self._upgrade = upgrade
        self._guests = guests
        self._users = users

    @post("/createRoom", limit="room_creation", good_standing=True)
    async def create_room(self, call: Call) -> Result:
        wanted = call.json(NewRoom)
        if invites := len(wanted.invite) + len(wanted.invite_3pid):
            call.charge("invite", invites)
        as_admin = call.session.account.is_admin
        return {"room_id": await self._new_rooms.create(call.user_id, wanted, as_admin=as_admin)}

    @post("/join/{room_id_or_alias}", auth=Auth.GUEST, limit="join", good_standing=True)
    async def join_by_alias(self, call: Call) -> Result:
        return await self._join(call, await self._aliases.locate(call.path("room_id_or_alias")))

    @post("/rooms/{room_id}/join", auth=Auth.GUEST, limit="join", good_standing=True)
    async def join(self, call: Call) -> Result:
        return await self._join(call, Located(check_room_id(call.path("room_id")), ()))

    async def _join(self, call: Call, located: Located) -> Result:
        body = call.json(JoinBody)
        if call.session.account.is_guest:
            await self._guests.check_join(located.room_id, call.user_id, _via(call, located))
        if body.third_party_signed is not None:
            inviter = body.third_party_signed.sender
            signed = call.json(JsonObject)["third_party_signed"]
            await self._third_party.claim(located.room_id, inviter, call.user_id, signed)
        await self._membership.join(
            located.room_id,
            call.user_id,
            reason=body.reason,
            extra=call.json(JsonObject),
            via=_via(call, located),
        )
        return {"room_id": located.room_id}

    @post("/knock/{room_id_or_alias}", limit="join", good_standing=True)
    async def knock(self, call: Call) -> Result:
        located = await self._aliases.locate(call.path("room_id_or_alias"))
        reason = call.json(Reason).reason
        via = _via(call, located)
        await self._membership.knock(located.room_id, call.user_id, reason=reason, via=via)
        return {"room_id": located.room_id}

    @post("/rooms/{room_id}/invite", limit="invite", good_standing=True)
    async def invite(self, call: Call) -> Result:
        if "medium" in call.json(JsonObject):  # spec: "Third-party Invites"
            await self._third_party.invite(call.path("room_id"), call.user_id, call.json(ByAddress))
            return {}
        body = call.json(Target)
        check_user_id(body.user_id)
        await self._membership.invite(call.path("room_id"), call.user_id, body.user_id, reason=body.reason)
        return {}

    @post("/rooms/{room_id}/leave", auth=Auth.GUEST, limit="request")
    async def leave(self, call: Call) -> Result:
        await self._membership.leave(call.path("room_id"), call.user_id, reason=call.json(Reason).reason)
        return {}

    @post("/rooms/{room_id}/kick", limit="message", good_standing=True)
    async def kick(self, call: Call) -> Result:
        body = call.json(Target)
        await self._membership.kick(call.path("room_id"), call.user_id, body.user_id, reason=body.reason)
        return {}

    @post("/rooms/{room_id}/ban", limit="message", good_standing=True)
    async def ban(self, call: Call) -> Result:
        body = call.json(Target)
        check_user_id(body.user_id)
        await self._membership.ban(call.path("room_id"), call.user_id, body.user_id, reason=body.reason)
        return {}

    @post("/rooms/{room_id}/unban", limit="message", good_standing=True)
    async def unban(self, call: Call) -> Result:
        body = call.json(Target)
        await self._membership.unban(call.path("room_id"), call.user_id, body.user_id, reason=body.reason)
        return {}

    @post("/rooms/{room_id}/forget", limit="request")
    async def forget(self, call: Call) -> Result:
        await self._membership.forget(call.path("room_id"), call.user_id)
        return {}

    @post("/rooms/{room_id}/upgrade", limit="room_creation", good_standing=True)
    async def upgrade(self, call: Call) -> Result:
        body = call.json(UpgradeBody)
        replacement = await self._upgrade.upgrade(
            call.path("room_id"), call.user_id, body.new_version, body.additional_creators
        )
        return {"replacement_room": replacement}

    @get("/joined_rooms", all_rooms=True)
    async def joined_rooms(self, call: Call) -> Result:
        user = await self._users.get(call.user_id)
        return {"joined_rooms": user.rooms("join")}


def _via(call: Call, located: Located) -> list[str]:
    """The servers by way of which a room may be entered, those first that the client names."""
    return [*call.query_all("via"), *call.query_all("server_name"), *located.servers]
