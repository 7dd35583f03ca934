"""Invites to people of whom only an e-mail address or a telephone number is known.

Whom an identity server knows is invited like anybody else. For others the room gets an invite that waits: the
identity server writes to them, and vouches for whom proves to have the address, who so may claim it.

spec: client-server "Third-party invites"
"""

import msgspec

from homeserver.egress.client import Egress
from homeserver.errors import forbidden
from homeserver.identity.addresses import Address, canonical
from homeserver.identity.keys import check_key
from homeserver.identity.servers import Account, IdentityServers
from homeserver.protocol.identifiers import check_room_id, check_user_id
from homeserver.protocol.json_types import JsonObject
from homeserver.rate_limits import RateLimits
from homeserver.rooms.authoring import Author, EventTemplate, check_content
from homeserver.rooms.elsewhere import Elsewhere, Nowhere
from homeserver.rooms.membership import InvitePermission, MemberProfiles, Membership
from homeserver.rooms.posting import post
from homeserver.rooms.room import Room, RoomHead
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import takes_part

WAITING = "m.room.third_party_invite"


class ByAddress(msgspec.Struct, frozen=True):
    """Somebody to invite; field names are those of the request."""

    id_server: str
    id_access_token: str
    medium: str
    address: str


class ThirdPartyInvites:
    """Invites by local users, and claims of theirs."""

    def __init__(
        self,
        rooms: Rooms,
        author: Author,
        membership: Membership,
        profiles: MemberProfiles,
        permission: InvitePermission,
        limits: RateLimits,
        identity: IdentityServers,
        egress: Egress,
    ) -> None:
        self._rooms = rooms
        self._author = author
        self._membership = membership
        self._profiles = profiles
        self._permission = permission
        self._limits = limits
        self._identity = identity
        self._egress = egress
        self.elsewhere: Elsewhere = Nowhere()

    async def invite(self, room_id: str, inviter: str, wanted: ByAddress) -> None:
        """Raises 400 M_SERVER_NOT_TRUSTED, 403 by the auth rules, and what the identity server says."""
        account, address = self._checked(wanted)
        room = await self._rooms.get(room_id)
        if room is None:
            raise forbidden("You are not in this room")
        room = await self._rooms.whole(room)
        # By who may not invite, no address is told, and nobody written to.
        self._author.check(room, EventTemplate(WAITING, inviter, {}, state_key=""))
        user_id = await self._identity.user_of(account, address)
        if user_id is not None:
            await self._membership.invite(room_id, inviter, user_id)
        else:
            await self._wait(room, inviter, account, address)

    async def user_of(self, wanted: ByAddress) -> str | None:
        """Who that is, as far as the identity server knows. Raises what `invite` does."""
        return await self._identity.user_of(*self._checked(wanted))

    async def wait(self, room: Room, inviter: str, wanted: ByAddress) -> None:
        """Invite somebody whom the identity server does not know. Raises what `invite` does."""
        await self._wait(room, inviter, *self._checked(wanted))

    def _checked(self, wanted: ByAddress) -> tuple[Account, Address]:
        account = self._identity.account(wanted.id_server, wanted.id_access_token)
        return account, canonical(wanted.medium, wanted.address)

    async def _wait(self, room: Room, inviter: str, account: Account, address: Address) -> None:
        invite = {**address._asdict(), **_described(room, inviter)}
        waiting = await self._identity.store_invite(account, invite)
        check_content(waiting.content)
        template = EventTemplate(WAITING, inviter, waiting.content, state_key=waiting.token)

        def decide(head: RoomHead) -> list[EventTemplate]:
            return [template]

        await post(self._rooms, self._author, room, decide)

    def check_any(self) -> None:
        """Raises 400 M_SERVER_NOT_TRUSTED where nobody is invited so."""
        self._identity.check_any()

    async def claim(self, room_id: str, inviter: str, user_id: str, signed: JsonObject) -> None:
        """Invite a local user who is vouched for, unless that was done.

        `signed` is what the identity server says. Raises 400 M_SERVER_NOT_TRUSTED, 403 where the room has no
        such invite, 429, and what others say.
        """
        self.check_any()
        check_room_id(room_id)
        check_user_id(inviter)
        check_content(signed)
        room = await self._rooms.get(room_id)
        if room is not None and room.membership_of(user_id) in ("invite", "join"):
            return
        self._limits.charge("invite", f"of other servers: {user_id}")
        if room is None or not takes_part(room, self._author.server_name):
            await self.elsewhere.claim(room_id, inviter, user_id, signed)
            return
        await self._permission.check_invite(user_id)
        room = await self._rooms.whole(room)
        template = await self.vouched(room, inviter, user_id, signed)

        def decide(head: RoomHead) -> list[EventTemplate]:
            member = head.state.get(("m.room.member", user_id))
            invited = member is not None and member.membership in ("invite", "join")
            return [] if invited else [template]

        await post(self._rooms, self._author, room, decide)

    async def vouched(self, room: Room, inviter: str, user_id: str, signed: JsonObject) -> EventTemplate:
        """The invite that is made of one that waits.

        Raises 403 where the room has none such or its key holds no more, 502 where nobody says whether it
        does.
        """
        waiting = room.state_content(WAITING, str(signed.get("token")))
        content = {
            **await self._profiles.member_profile(user_id),
            "membership": "invite",
            "third_party_invite": {"display_name": waiting.get("display_name"), "signed": signed},
        }
        check_content(content)
        template = EventTemplate("m.room.member", inviter, content, state_key=user_id)
        # An inviter says where it is asked for the key: first it must be one that the room knows.
        self._author.check(room, template)
        await check_key(self._egress, waiting, signed)
        return template


def _described(room: Room, inviter: str) -> JsonObject:
    """What the identity server may say of the invite to whom it writes to."""
    member = room.state_content("m.room.member", inviter)
    said = {
        "sender_display_name": member.get("displayname"),
        "sender_avatar_url": member.get("avatar_url"),
        "room_name": room.name,
        "room_alias": room.state_content("m.room.canonical_alias").get("alias"),
        "room_avatar_url": room.state_content("m.room.avatar").get("url"),
        "room_join_rules": room.join_rule,
        "room_type": room.room_type,
    }
    texts = {key: text for key, text in said.items() if isinstance(text, str) and text}
    return {"room_id": room.room_id, "sender": inviter, **texts}
