"""Which servers an event is sent to, and by whom (spec: server-server "PDUs")."""

from collections.abc import Set
from contextlib import suppress

from homeserver.protocol.identifiers import InvalidIdentifier, server_name_of
from homeserver.rooms.event_meta import decode_meta
from homeserver.rooms.room import Room
from homeserver.rooms.servers import server_acl
from storage.log import Entry, Kind


def is_told_by(server_name: str, entry: Entry) -> bool:
    """Whether it is for this server to send the event of an entry to the others in its room.

    Those of its own users, but for how they came in by way of another server; and how users of others came in
    by way of this one. History that was fetched is nobody's news.
    """
    if entry.kind is not Kind.EVENT or entry.is_past or entry.sender is None:
        return False
    return (server_name_of(entry.sender) == server_name) != decode_meta(entry.meta).relay


def told_servers(server_name: str, room: Room, entry: Entry) -> set[str]:
    """The other servers that an event of a room is sent to."""
    told = set(room.servers)
    if entry.type == "m.room.member" and entry.key is not None:
        # Who was made to leave is not in the room any more. Invited servers are told in another way.
        member = room.head.lookup("m.room.member", entry.key)
        if member is None or member.membership != "invite":
            with suppress(InvalidIdentifier):
                told.add(server_name_of(entry.key))
    told -= {server_name, server_name_of(entry.sender or "")}
    # Servers that a rule shuts out are expected to keep it, too, so of the rule they learn.
    return told if entry.type == "m.room.server_acl" else _allowed(room, told)


def is_own_membership(server_name: str, entry: Entry) -> bool:
    """Whether an entry is about a membership of one of this server's users."""
    if entry.kind is not Kind.EVENT or entry.is_past or entry.type != "m.room.member":
        return False
    return entry.key is not None and server_name_of(entry.key) == server_name


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
