"""Guests in rooms: only where `m.room.guest_access` lets them in (spec: client-server "Guest Access")."""

from collections.abc import Sequence

import structlog

from homeserver.errors import MatrixError
from homeserver.protocol.identifiers import localpart_of, server_name_of
from homeserver.rooms.foreign_rooms import ForeignRooms
from homeserver.rooms.membership import Membership
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import takes_part
from homeserver.users.accounts import Accounts
from storage.log import Entry, Kind

log = structlog.get_logger(__name__)

TYPE = "m.room.guest_access"


class Guests:
    def __init__(
        self,
        rooms: Rooms,
        accounts: Accounts,
        membership: Membership,
        foreign: ForeignRooms,
        server_name: str,
    ) -> None:
        self._rooms = rooms
        self._accounts = accounts
        self._membership = membership
        self._foreign = foreign
        self._server_name = server_name

    async def check_join(self, room_id: str, guest: str, via: Sequence[str] = ()) -> None:
        """Raises 403 M_GUEST_ACCESS_FORBIDDEN unless guests may join the room; `via` may tell of it."""
        room = await self._rooms.get(room_id)
        if room is not None and takes_part(room, self._server_name):
            lets_in = _lets_in(room)
        else:
            lets_in = await self._lets_in_elsewhere(room_id, [*_invited_by(room, guest), *via])
        if not lets_in:
            raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests may not join this room")

    async def _lets_in_elsewhere(self, room_id: str, via: Sequence[str]) -> bool:
        told = await self._foreign.room(room_id, via, suggested_only=False)
        return told is not None and told.description.guest_can_join

    async def check_change(self, room_id: str, guest: str, user_id: str, membership: object) -> None:
        """What a guest may do about membership: join where they are let in, and leave. Raises 403."""
        if membership == "join":
            await self.check_join(room_id, guest)
        elif membership != "leave" or user_id != guest:
            raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests may not do this")

    # When a room closes to them, they have to leave

    def wants(self, entry: Entry) -> bool:
        return entry.type == TYPE and entry.key == "" and entry.kind in (Kind.EVENT, Kind.STATE)

    async def handle(self, shard: int, entry: Entry) -> None:
        room = await self._rooms.get(entry.stream)
        if room is None or _lets_in(room):
            return
        for user_id in list(room.joined):
            # All guests have numbers for names; few others do.
            if not self._accounts.is_local(user_id) or not localpart_of(user_id).isdigit():
                continue
            account = await self._accounts.get(user_id)
            if account is not None and account.is_guest:
                try:
                    await self._membership.leave(room.room_id, user_id)
                except MatrixError as error:
                    if error.status == 503:
                        raise
                    log.warning("guest not parted", room=room.room_id, user=user_id, error=error.error)


def _lets_in(room: Room) -> bool:
    return room.state_content(TYPE).get("guest_access") == "can_join"


def _invited_by(room: Room | None, guest: str) -> list[str]:
    """The servers that told of an invite to a room that this one is not in."""
    own = room.head.lookup("m.room.member", guest) if room is not None else None
    if own is None:
        return []
    return [*([own.preview.server] if own.preview is not None else ()), server_name_of(own.sender)]
