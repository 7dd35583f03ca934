"""Joining, inviting, leaving, knocking, kicking, banning (spec: client-server "Room membership").

What is allowed is decided by the auth rules on the event itself; here is what the endpoints add:
the profile in the member event, restricted joins' authorising user, invite permission, idempotence.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from typing import Protocol

from homeserver.errors import MatrixError, bad_json, forbidden, not_found
from homeserver.protocol.identifiers import check_user_id, server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.authoring import Author, EventTemplate, Transaction, check_content, same_state
from homeserver.rooms.broken_rooms import LeftOutIfBroken
from homeserver.rooms.elsewhere import Elsewhere, Nowhere
from homeserver.rooms.posting import post
from homeserver.rooms.restricted import AUTHORISER, UNABLE_TO_AUTHORISE, UNABLE_TO_GRANT, RestrictedJoins
from homeserver.rooms.room import Room, RoomHead
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import takes_part
from homeserver.users.users import FORGOTTEN, Users
from storage.log import Entry, Kind

OWN_KEYS = frozenset(
    (
        "membership",
        "displayname",
        "avatar_url",
        "is_direct",
        "reason",
        "third_party_signed",
        "third_party_invite",
        AUTHORISER,
    )
)
"""Content of a member event that the server fills in itself."""
KICKED_FROM = ("join", "invite", "knock")


class MemberProfiles(Protocol):
    async def member_profile(self, user_id: str) -> JsonObject:
        """`displayname` and `avatar_url` as a member event carries them, {} for an unknown user."""
        ...


class Standing(Protocol):
    async def has_ended(self, user_id: str) -> bool:
        """Whether the user's account was deactivated."""
        ...


class InvitePermission(Protocol):
    async def check_invite(self, invitee: str) -> None:
        """Raises 403 M_INVITE_BLOCKED when the invitee wants no invites (spec: invite permission)."""
        ...


class Membership:
    """Changes of membership that local users ask for."""

    def __init__(
        self,
        rooms: Rooms,
        users: Users,
        author: Author,
        profiles: MemberProfiles,
        permission: InvitePermission,
        restricted: RestrictedJoins,
        standing: Standing,
    ) -> None:
        self._rooms = rooms
        self._users = users
        self._author = author
        self._profiles = profiles
        self._permission = permission
        self._restricted = restricted
        self._standing = standing
        self.elsewhere: Elsewhere = Nowhere()
        self._transaction: Transaction | None = None

    def within(self, transaction: Transaction | None) -> "Membership":
        """The same for what is asked in a transaction: what comes of it is marked with that."""
        bound = copy(self)
        bound._transaction = transaction
        return bound

    async def join(
        self,
        room_id: str,
        user_id: str,
        *,
        reason: str | None = None,
        extra: JsonObject | None = None,
        called: JsonObject | None = None,
        via: Sequence[str] = (),
    ) -> str:
        """Join, or do nothing when joined; from `extra` comes content of the client's own.

        `called` is the name and the picture to have in this room instead of the profile's, `via` servers that
        may be in the room. Returns the id of the member event. Raises 403 by the join rules, 404 for a room
        that no server is known to be in, and what other servers say.
        """
        room = await self._rooms.get(room_id)
        if room is not None and user_id in room.joined:
            # Or has just left by way of another replica.
            await self._rooms.catch_up(room)
            if user_id in room.joined:
                return room.head.state["m.room.member", user_id].event_id
        profile = await self._profiles.member_profile(user_id)
        content = {**_extra(extra), **_plain("join", reason), **profile, **(called or {})}
        check_content(content)
        event_id = await self._come_in(room_id, room, user_id, content, via)
        if (now := await self._profiles.member_profile(user_id)) != profile:
            # Whoever changed it did not find the user in this room yet.
            with suppress(MatrixError):
                await self._refresh_profile(room_id, user_id, now)
        await self.leave_if_ended(room_id, user_id)
        return event_id

    async def leave_if_ended(self, room_id: str, user_id: str) -> None:
        """Who deactivated the account meanwhile did not find the user in this room yet."""
        if await self._standing.has_ended(user_id):
            await self.within(None).leave(room_id, user_id)

    async def _come_in(
        self,
        room_id: str,
        room: Room | None,
        user_id: str,
        content: JsonObject,
        via: Sequence[str],
    ) -> str:
        """Join with this content, by way of other servers where that is needed, which may take minutes."""
        if room is None or not takes_part(room, self._author.server_name):
            joined = await self.elsewhere.join(room_id, user_id, content, via)
            if joined is not None:
                return joined
            room = await self._known_room(room_id)
        room = await self._rooms.whole(room)
        if self._restricted.concern(room, user_id):
            try:
                content[AUTHORISER] = await self._restricted.authoriser(room, user_id)
            except MatrixError as error:
                unable = error.errcode in (UNABLE_TO_AUTHORISE, UNABLE_TO_GRANT)
                if not unable or not room.servers.keys() - {self._author.server_name}:
                    raise
                return await self.elsewhere.join_authorised(room, user_id, content)
        return await self._set(room, user_id, user_id, content, unless="join")

    async def invite(
        self,
        room_id: str,
        inviter: str,
        invitee: str,
        *,
        reason: str | None = None,
        is_direct: bool = False,
        extra: JsonObject | None = None,
    ) -> str:
        """Invite a user. Raises 403 by the auth rules or by the invitee's wish."""
        room = await self._room_with(room_id, inviter)
        await self._permission.check_invite(invitee)
        content = {**_extra(extra), **await self._content(invitee, "invite", reason)}
        if is_direct:
            content["is_direct"] = True
        if server_name_of(invitee) != self._author.server_name:
            check_content(content)
            template = EventTemplate("m.room.member", inviter, content, state_key=invitee)
            return await self.elsewhere.invite(room, template)
        return await self._set(room, inviter, invitee, content)

    async def knock(
        self,
        room_id: str,
        user_id: str,
        *,
        reason: str | None = None,
        via: Sequence[str] = (),
    ) -> str:
        """Ask to be invited. Raises 403 by the join rules, and what `join` raises."""
        room = await self._rooms.get(room_id)
        content = await self._content(user_id, "knock", reason)
        if room is None or not takes_part(room, self._author.server_name):
            event_id = await self.elsewhere.knock(room_id, user_id, content, via)
        else:
            room = await self._rooms.whole(room)
            if not room.version.knocking:
                raise forbidden("This room's version has no knocking")
            event_id = await self._set(room, user_id, user_id, content, unless="knock")
        await self.leave_if_ended(room_id, user_id)
        return event_id

    async def leave(self, room_id: str, user_id: str, *, reason: str | None = None) -> str:
        """Leave, reject an invite or take back a knock; nothing to do when left. 404 for an unknown room."""
        room = await self._known_room(room_id)
        membership = room.membership_of(user_id)
        if membership is None:
            raise forbidden("You are not in this room")
        if membership in ("invite", "knock") and not takes_part(room, self._author.server_name):
            return await self.elsewhere.leave(room, user_id, _plain("leave", reason))
        return await self._set(room, user_id, user_id, _plain("leave", reason), unless="leave")

    async def kick(self, room_id: str, actor: str, user_id: str, *, reason: str | None = None) -> str:
        """Make a user leave, or withdraw an invite. Raises 403 when there is nothing to kick."""
        room = await self._room_with(room_id, actor)
        return await self._set(room, actor, user_id, _plain("leave", reason), was=KICKED_FROM)

    async def ban(self, room_id: str, actor: str, user_id: str, *, reason: str | None = None) -> str:
        room = await self._room_with(room_id, actor)
        return await self._set(room, actor, user_id, _plain("ban", reason))

    async def unban(self, room_id: str, actor: str, user_id: str, *, reason: str | None = None) -> str:
        """Raises 403 M_FORBIDDEN when the user is not banned (spec: unban)."""
        room = await self._room_with(room_id, actor)
        return await self._set(room, actor, user_id, _plain("leave", reason), was=("ban",))

    async def put(self, room_id: str, actor: str, user_id: str, content: JsonObject) -> str:
        """A member event that a client wrote, as the endpoint for that change would have made it.

        What the server answers for (who authorised a join, whose invite it was) is not the client's to
        say. Members may call themselves in a room what they like. Raises 400 and what the endpoints raise.
        """
        check_user_id(user_id)
        for key in ("displayname", "avatar_url", "reason"):
            if not isinstance(content.get(key), str | None):
                raise bad_json(f"m.room.member: {key} must be a string")
        membership, reason = content.get("membership"), content.get("reason")
        own = actor == user_id
        if membership == "invite":
            direct = content.get("is_direct") is True
            return await self.invite(room_id, actor, user_id, reason=reason, is_direct=direct, extra=content)
        if membership == "ban":
            return await self.ban(room_id, actor, user_id, reason=reason)
        if membership == "leave" and own:
            return await self.leave(room_id, user_id, reason=reason)
        if membership == "leave":
            room = await self._room_with(room_id, actor)
            banned = room.membership_of(user_id) == "ban"
            end = self.unban if banned else self.kick
            return await end(room_id, actor, user_id, reason=reason)
        if membership not in ("join", "knock"):
            raise bad_json("m.room.member: membership must be join, invite, knock, leave or ban")
        if not own:
            raise forbidden("They have to do that themselves")
        if membership == "knock":
            return await self.knock(room_id, user_id, reason=reason)
        room = await self._known_room(room_id)
        called: JsonObject = {key: content[key] for key in ("displayname", "avatar_url") if key in content}
        if user_id not in room.joined:
            return await self.join(room_id, user_id, reason=reason, extra=content, called=called)
        content = {**_extra(content), "membership": "join", **called}
        return await self._set(room, user_id, user_id, content, was=("join",))

    async def forget(self, room_id: str, user_id: str) -> None:
        """Hide a room that was left from the user's lists. Raises 400 while the user is in it, 404."""
        user = await self._users.get(user_id)
        ref = user.memberships.get(room_id)
        if ref is None:
            raise not_found("You were never in this room")
        if ref.membership not in ("leave", "ban"):
            raise MatrixError(400, "M_UNKNOWN", "Leave the room first")
        entry = Entry(
            kind=Kind.NOTICE,
            stream=user_id,
            type=FORGOTTEN,
            key=room_id,
            body=str(ref.position).encode(),
            ts=self._author.now(),
        )
        await self._users.append(user_id, [entry])

    async def _refresh_profile(self, room_id: str, user_id: str, profile: JsonObject) -> None:
        """Carry a changed profile into the member event of a joined room."""
        room = await self._rooms.get(room_id)
        if room is None or user_id not in room.joined:
            return

        def decide(head: RoomHead) -> list[EventTemplate]:
            current = head.state.get(("m.room.member", user_id))
            if current is None or current.membership != "join":
                return []
            kept = {k: v for k, v in current.content.items() if k not in ("displayname", "avatar_url")}
            kept.pop(AUTHORISER, None)
            content = {**kept, **profile}
            if content == current.content:
                return []
            return [EventTemplate("m.room.member", user_id, content, state_key=user_id)]

        await post(self._rooms, self._author, room, decide)

    async def refresh_profiles(self, user_id: str, room_ids: Sequence[str]) -> None:
        """Carry a changed profile into many rooms, side by side; a room that refuses it keeps the old one.

        Raises MatrixError 503, StoreError: some may have the old one.
        """
        profile: JsonObject | None = None
        # Another change may have come to some of the rooms before this one.
        while (now := await self._profiles.member_profile(user_id)) != profile:
            profile = now
            await self._carry(user_id, room_ids, now)

    async def _carry(self, user_id: str, room_ids: Sequence[str], profile: JsonObject) -> None:
        async def refresh(room_id: str) -> None:
            with LeftOutIfBroken(room_id):
                await self._refresh_profile(room_id, user_id, profile)

        results = await asyncio.gather(*map(refresh, room_ids), return_exceptions=True)
        for result in results:
            refused = isinstance(result, MatrixError) and result.status != 503
            if isinstance(result, BaseException) and not refused:
                raise result

    async def _known_room(self, room_id: str) -> Room:
        room = await self._rooms.get(room_id)
        if room is None:
            raise not_found("This server does not know the room")
        return room

    async def _room_with(self, room_id: str, user_id: str) -> Room:
        """The room with all of its members, of which the user is one."""
        room = await self._rooms.get(room_id)
        if room is None or user_id not in room.joined:
            raise forbidden("You are not in this room")
        return await self._rooms.whole(room)

    async def _content(self, user_id: str, membership: str, reason: str | None) -> JsonObject:
        content = _plain(membership, reason)
        if server_name_of(user_id) == self._author.server_name:
            content.update(await self._profiles.member_profile(user_id))
        return content

    async def _set(
        self,
        room: Room,
        actor: str,
        user_id: str,
        content: JsonObject,
        *,
        unless: str | None = None,
        was: Sequence[str] | None = None,
    ) -> str:
        """Append the member event, unless the membership is `unless` or all is as it says; its id.

        Raises 403 when the membership before it is none of `was`.
        """
        check_content(content)
        template = EventTemplate("m.room.member", actor, content, state_key=user_id)
        unchanged: list[str] = []

        def decide(head: RoomHead) -> list[EventTemplate]:
            current = head.state.get(("m.room.member", user_id))
            if was is not None and (current is None or current.membership not in was):
                raise forbidden(f"The user's membership is not {' or '.join(was)}")
            if current is not None and (current.membership == unless or same_state(head, template)):
                unchanged[:] = [current.event_id]
                return []
            return [template]

        return (await post(self._rooms, self._author, room, decide, self._transaction) or unchanged)[0]


def _extra(content: JsonObject | None) -> JsonObject:
    """Content of the client's own."""
    return {key: value for key, value in (content or {}).items() if key not in OWN_KEYS}


def _plain(membership: str, reason: str | None) -> JsonObject:
    content: JsonObject = {"membership": membership}
    if reason is not None:
        content["reason"] = reason
    return content
