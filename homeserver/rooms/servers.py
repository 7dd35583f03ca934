"""Which servers a room has to do with."""

from collections.abc import Iterable
from functools import lru_cache

from homeserver.protocol.identifiers import server_of_member
from homeserver.protocol.server_acl import ServerAcl, compile_acl
from homeserver.rooms.room import CREATE, Room
from homeserver.rooms.room_event import RoomEvent

_EVERYBODY = compile_acl({"allow": ["*"]})


def server_acl(room: Room) -> ServerAcl:
    """The room's rule about servers (spec: client-server "Server Access Control Lists (ACLs) for rooms")."""
    event = room.head.lookup("m.room.server_acl", "")
    return _EVERYBODY if event is None else _acl_in(event)


@lru_cache(256)
def _acl_in(event: RoomEvent) -> ServerAcl:
    """Made once: an event in memory never changes, a redaction puts another in its place."""
    return compile_acl(event.content)


def has_user_of(server: str, user_ids: Iterable[str]) -> bool:
    """Whether one of the users belongs to a server."""
    return any(_is_of(server, user_id) for user_id in user_ids)


def members_from(server: str, room: Room) -> tuple[str, ...]:
    """The users of a server who have, or had, to do with a room: with a member event in its state."""
    kept = "members from", server
    known = room.fragments.get(kept, tuple)
    if known is None:
        # All of a large state is gone through, and who asks does so for many events at a time.
        members = [key for type, key in room.head.state if type == "m.room.member" and _is_of(server, key)]
        known = room.fragments.keep(kept, tuple(members), 8 * len(members))
    return known


def _is_of(server: str, user_id: str) -> bool:
    # Most are not, and their ids need no parting.
    return user_id.endswith(server) and server_of_member(user_id) == server


def takes_part(room: Room, server: str) -> bool:
    """Whether a room is what this server, by that name, knows of it.

    Where all its users have left others, the room has gone on without it, and of one that its users were
    only invited to it knows nothing. A room that nobody is in stays what it is.
    """
    if CREATE not in room.head.state:
        return False
    is_empty = not room.joined and room.partial is None
    return is_empty or server in room.servers
