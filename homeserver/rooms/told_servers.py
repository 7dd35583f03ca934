"""Which servers an event is sent to, and by whom (spec: server-server "PDUs").

Those that were in the room when it came: what was said before that they ask for, as far as they may see it.
"""

from collections.abc import Set

from homeserver.protocol.identifiers import server_name_of, server_of_member
from homeserver.rooms.event_meta import decode_meta
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.servers import members_from, server_acl
from storage.log import Entry, Kind

MEMBER = "m.room.member"


def is_told_by(server_name: str, entry: Entry) -> bool:
    """Whether it is for this server to send the event of an entry to the others in its room.

    Those of its own users, but for how they came in by way of another server; how users of others came in by
    way of this one; and invites of others to users of this one who were vouched for. History that was fetched
    is nobody's news.
    """
    if entry.kind is not Kind.EVENT or entry.is_past or entry.sender is None:
        return False
    return (server_name_of(entry.sender) == server_name) != decode_meta(entry.meta).relay


async def told_servers(server_name: str, rooms: Rooms, room: Room, entry: Entry) -> set[str]:
    """The other servers that an event of a room is sent to. Raises StoreError."""
    concerned = {*room.servers} if (put_out := _put_out(room, entry)) is None else {*room.servers, put_out}
    return await told_among(concerned - {server_name}, rooms, room, entry)


async def told_among(servers: Set[str], rooms: Rooms, room: Room, entry: Entry) -> set[str]:
    """Those of some other servers that an event of a room is sent to. Raises StoreError."""
    # Who comes in has handed over the event; in the name of an inviter elsewhere it was made here.
    handed_over = entry.key in (None, entry.sender)
    others = servers - {server_name_of(entry.sender or "")} if handed_over else servers
    # Servers that a rule shuts out are expected to keep it, too, so of the rule they learn.
    told = {*others} if entry.type == "m.room.server_acl" else _allowed(room, others)
    since, put_out = room.present_since, _put_out(room, entry)
    for server in [each for each in told if since.get(each, entry.position) >= entry.position]:
        if server != put_out and not await _was_there(server, rooms, room, entry.position):
            told.discard(server)
    return told


def _put_out(room: Room, entry: Entry) -> str | None:
    """The server of somebody who was made to leave: it is not in the room any more, and has to know.

    Invited servers are told in another way.
    """
    if entry.type != MEMBER or entry.key is None:
        return None
    member = room.head.lookup(MEMBER, entry.key)
    if member is not None and member.membership == "invite":
        return None
    return server_of_member(entry.key)


async def _was_there(server: str, rooms: Rooms, room: Room, position: int) -> bool:
    """Whether a server had users in a room before the event at a position, by the log."""
    keys = [(MEMBER, user_id) for user_id in members_from(server, room)]
    refs = await rooms.log.current_at(room.shard, room.room_id, Kind.EVENT, position - 1, keys)
    members = await rooms.stored.current(room.room_id, refs)
    return any(member.membership == "join" for member in members)


def is_own_membership(server_name: str, entry: Entry) -> bool:
    """Whether an entry is about a membership of one of this server's users."""
    if entry.kind is not Kind.EVENT or entry.is_past or entry.type != MEMBER:
        return False
    return entry.key is not None and server_of_member(entry.key) == server_name


def who_joins(server_name: str, room: Room, entry: Entry) -> str | None:
    """The user of this server who comes into a room by the event of an entry, None if nobody does."""
    if not is_own_membership(server_name, entry):
        return None
    member = room.find(entry.event_id or "")
    if member is None or member.membership != "join":
        return None
    before = member.unsigned().get("prev_content", {}).get("membership")
    return entry.key if before != "join" else None


def others_in(server_name: str, room: Room) -> set[str]:
    """The other servers in a room, as far as they may speak there and be spoken to."""
    return _allowed(room, room.servers.keys() - {server_name})


def _allowed(room: Room, servers: Set[str]) -> set[str]:
    acl = server_acl(room)
    return {server for server in servers if acl.allows(server)}
