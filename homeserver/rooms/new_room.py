"""createRoom as a client asks for it: the room, then its alias, invites and place in the directory."""

import asyncio
from functools import partial

import msgspec
import structlog

from homeserver.errors import MatrixError, invalid_param
from homeserver.protocol.identifiers import InvalidIdentifier, check_user_id, server_name_of
from homeserver.rooms.aliases import CANONICAL_ALIAS, Aliases, check_first_canonical
from homeserver.rooms.authoring import EventTemplate
from homeserver.rooms.creation import MAX_INVITES, Claim, Creation, NewRoom, with_additional_creators
from homeserver.rooms.directory import Directory
from homeserver.rooms.membership import InvitePermission, MemberProfiles, Membership
from homeserver.rooms.room import Room
from homeserver.rooms.third_party_invites import ByAddress, ThirdPartyInvites
from storage.errors import StoreError

log = structlog.get_logger(__name__)


class NewRooms:
    """Rooms for local users, with all that a request may ask for beside the first events."""

    def __init__(
        self,
        creation: Creation,
        membership: Membership,
        third_party: ThirdPartyInvites,
        aliases: Aliases,
        directory: Directory,
        profiles: MemberProfiles,
        permission: InvitePermission,
    ) -> None:
        self._creation = creation
        self._membership = membership
        self._third_party = third_party
        self._aliases = aliases
        self._directory = directory
        self._profiles = profiles
        self._permission = permission

    async def create(self, creator: str, request: NewRoom, *, as_admin: bool) -> str:
        """The new room's id. Everything that can be refused is refused before anything is made.

        Once the room is there it is named, whatever becomes of the rest: who hears an error makes another.
        """
        version = self._creation.version_of(request.room_version)
        if request.visibility == "public":
            self._directory.check_publishing(is_admin=as_admin)
        request = await self._with_known(request)
        for invitee in request.invite:
            try:
                check_user_id(invitee)
            except InvalidIdentifier as error:
                raise invalid_param(f"invite: {error}") from error
            await self._permission.check_invite(invitee)
        alias: str | None = None
        claim: Claim | None = None
        if request.room_alias_name is not None:
            alias = self._aliases.full(request.room_alias_name)
            claim = partial(self._aliases.claimed, alias, creator=creator)
        for event in request.initial_state:
            if event.type == CANONICAL_ALIAS and event.state_key == "":
                check_first_canonical(event.content, alias)
        request = with_additional_creators(request, version)
        member = {"membership": "join", **await self._profiles.member_profile(creator)}
        here: list[EventTemplate] = []
        elsewhere: list[str] = []
        for invitee in dict.fromkeys(request.invite):
            if server_name_of(invitee) != server_name_of(creator):
                elsewhere.append(invitee)
            elif invitee != creator:
                here.append(await self._invite_event(creator, invitee, is_direct=request.is_direct))
        room = await self._creation.create(creator, request, member, alias, claim, here)
        if request.visibility == "public":
            await self._publish(room.room_id, as_admin=as_admin)
        for invitee in elsewhere:
            await self._invite(room.room_id, creator, invitee, is_direct=request.is_direct)
        for wanted in request.invite_3pid:
            await self._invite_unknown(room, creator, wanted)
        return room.room_id

    async def _with_known(self, request: NewRoom) -> NewRoom:
        """The request with those among the users to invite whom identity servers know by their addresses."""
        if len(request.invite_3pid) > MAX_INVITES:
            raise invalid_param(f"invite_3pid: at most {MAX_INVITES} addresses")
        wanted = list(dict.fromkeys(request.invite_3pid))
        users = await asyncio.gather(*map(self._third_party.user_of, wanted))
        found = dict(zip(wanted, users, strict=True))
        return msgspec.structs.replace(
            request,
            invite=[*request.invite, *(user_id for user_id in found.values() if user_id is not None)],
            invite_3pid=[wanted for wanted, user_id in found.items() if user_id is None],
        )

    async def _invite_event(self, creator: str, invitee: str, *, is_direct: bool) -> EventTemplate:
        """A user of this server is invited with the first events: who tries again finds no half of a room."""
        content = {"membership": "invite", **await self._profiles.member_profile(invitee)}
        if is_direct:
            content["is_direct"] = True
        return EventTemplate("m.room.member", creator, content, state_key=invitee)

    async def _publish(self, room_id: str, *, as_admin: bool) -> None:
        """Put the room into the directory. If the store fails meanwhile, its creator can still do that."""
        try:
            await self._directory.publish(room_id, True, is_admin=as_admin)
        except StoreError as error:
            log.warning("not published", room_id=room_id, error=str(error))

    async def _invite(self, room_id: str, creator: str, invitee: str, *, is_direct: bool) -> None:
        """Invite a user of another server. If that does not let them be, the room is there all the same."""
        try:
            await self._membership.invite(room_id, creator, invitee, is_direct=is_direct)
        except (MatrixError, StoreError) as error:
            log.info("not invited", room_id=room_id, user_id=invitee, reason=str(error))

    async def _invite_unknown(self, room: Room, creator: str, wanted: ByAddress) -> None:
        """Invite somebody by an address. If the identity server does not want to, the room is there, too."""
        try:
            await self._third_party.wait(room, creator, wanted)
        except (MatrixError, StoreError) as error:
            log.info("not invited", room_id=room.room_id, identity_server=wanted.id_server, reason=str(error))
