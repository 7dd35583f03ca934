"""Invites to people of whom only an e-mail address or a telephone number is known.

Whom an identity server knows is invited like anybody else. For others the room gets an invite that waits: the
identity server writes to them, and who proves to have the address may claim it.

spec: client-server "Third-party invites"
"""

import msgspec

from homeserver.errors import forbidden
from homeserver.identity.addresses import Address, canonical
from homeserver.identity.servers import Account, IdentityServers
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.authoring import Author, EventTemplate, check_content
from homeserver.rooms.membership import Membership
from homeserver.rooms.posting import post
from homeserver.rooms.room import Room, RoomHead
from homeserver.rooms.rooms import Rooms

WAITING = "m.room.third_party_invite"


class ByAddress(msgspec.Struct, frozen=True):
    """Somebody to invite; field names are those of the request."""

    id_server: str
    id_access_token: str
    medium: str
    address: str


class ThirdPartyInvites:
    """Invites by local users."""

    def __init__(
        self,
        rooms: Rooms,
        author: Author,
        membership: Membership,
        identity: IdentityServers,
    ) -> None:
        self._rooms = rooms
        self._author = author
        self._membership = membership
        self._identity = identity

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


def _described(room: Room, inviter: str) -> JsonObject:
    """What the identity server may say of the invite to whom it writes to."""
    member = room.state_content("m.room.member", inviter)
    said = {
        "sender_display_name": member.get("displayname"),
        "sender_avatar_url": member.get("avatar_url"),
        "room_name": room.state_content("m.room.name").get("name"),
        "room_alias": room.state_content("m.room.canonical_alias").get("alias"),
        "room_avatar_url": room.state_content("m.room.avatar").get("url"),
        "room_join_rules": room.join_rule,
        "room_type": room.state_content("m.room.create").get("type"),
    }
    texts = {key: text for key, text in said.items() if isinstance(text, str) and text}
    return {"room_id": room.room_id, "sender": inviter, **texts}
