"""Joining by being in another room (spec: client-server "Restricted rooms", server-server likewise)."""

from homeserver.errors import MatrixError, forbidden
from homeserver.protocol.identifiers import server_name_of
from homeserver.rooms.redaction import power_levels
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import takes_part

AUTHORISER = "join_authorised_via_users_server"
"""What a member event's content calls the member in whose name a restricted join may be."""
UNABLE_TO_AUTHORISE = "M_UNABLE_TO_AUTHORISE_JOIN"
UNABLE_TO_GRANT = "M_UNABLE_TO_GRANT_JOIN"


class RestrictedJoins:
    """Lets users into rooms whose join rule names others, in the name of a member of this server."""

    def __init__(self, rooms: Rooms, server_name: str) -> None:
        self._rooms = rooms
        self._server_name = server_name

    def concern(self, room: Room, user_id: str) -> bool:
        """Whether the user's join has to be authorised so."""
        return (
            room.version.restricted_joins
            and room.join_rule in ("restricted", "knock_restricted")
            and room.membership_of(user_id) not in ("join", "invite")
        )

    async def authoriser(self, room: Room, user_id: str) -> str:
        """The member in whose name the user may join.

        Raises 403 when the user is in none of the rooms that the rule names, and 400 when another server has
        to be asked: M_UNABLE_TO_AUTHORISE_JOIN where this one knows none of these rooms,
        M_UNABLE_TO_GRANT_JOIN where no member of this server may invite.
        """
        await self.check(room, user_id)
        levels = power_levels(room.version, room.head.lookup)
        for member in room.joined:
            if server_name_of(member) == self._server_name and levels.user_level(member) >= levels.invite:
                return member
        raise MatrixError(400, UNABLE_TO_GRANT, "No member of this server may invite you")

    async def check(self, room: Room, user_id: str) -> None:
        """Raises 403 and 400 as `authoriser`, for what the user has to bring."""
        if await self.in_allowed_room(room, user_id):
            return
        # Or has just come into one by way of another replica.
        allowed = await self._allowed(room)
        for other in allowed:
            await self._rooms.catch_up(other)
        if any(user_id in other.joined for other in allowed):
            return
        if allowed or not allowed_rooms(room):
            raise forbidden("You are in none of the rooms whose members may join")
        raise MatrixError(
            400, UNABLE_TO_AUTHORISE, "This server knows none of the rooms whose members may join"
        )

    async def in_allowed_room(self, room: Room, user_id: str) -> bool:
        """Whether the user is in a room that the restricted join rule of `room` names."""
        allowed = await self._allowed(room)
        return any(user_id in other.joined for other in allowed)

    async def _allowed(self, room: Room) -> list[Room]:
        """Those of the rooms that the rule names of which this server knows who is in them."""
        others = [await self._rooms.get(room_id) for room_id in allowed_rooms(room)]
        return [other for other in others if other is not None and takes_part(other, self._server_name)]


def allowed_rooms(room: Room) -> list[str]:
    """The rooms whose members a restricted join rule lets in."""
    allow = room.state_content("m.room.join_rules").get("allow")
    conditions = allow if isinstance(allow, list) else []
    return [
        condition["room_id"]
        for condition in conditions
        if isinstance(condition, dict)
        and condition.get("type") == "m.room_membership"
        and isinstance(condition.get("room_id"), str)
    ]
