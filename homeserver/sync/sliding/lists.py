"""Which rooms a list holds, and in which order (MSC4186 "Room list", "Filters")."""

from collections.abc import Sequence

from homeserver.rooms.broken_rooms import LeftOutIfBroken
from homeserver.rooms.outline import Outline
from homeserver.rooms.room import Activity, Room
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.visibility import Visibility
from homeserver.sync.sliding.request import ListFilters, RoomList
from homeserver.users.invite_permission import blocks_invites
from homeserver.users.users import MembershipRef, User

Listed = tuple[Room | Outline, MembershipRef]

PRESENT = frozenset({"join", "invite", "knock"})


async def rooms_of(rooms: Rooms, visibility: Visibility, user: User) -> list[Listed]:
    """The user's rooms, the one with the newest activity first.

    Those joined, invited to or knocked on, and those that others put the user out of: a client that was not
    told of its join would otherwise believe it for ever.
    """
    ignored = user.global_data("m.ignored_user_list").get("ignored_users")
    hides_invites = blocks_invites(user)
    found: list[Listed] = []
    for room_id, ref in list(user.memberships.items()):
        put_out = is_put_out(user, ref)
        if ref.membership not in PRESENT and not put_out:
            continue
        if ref.membership == "invite" and (
            hides_invites or (isinstance(ignored, dict) and ref.sender in ignored)
        ):
            continue
        with LeftOutIfBroken(room_id):
            # For lists alone no room is read that was in memory before: most of them are quiet.
            listed = await rooms.outlined(room_id)
            if listed is None or (put_out and not await _was_in(rooms, visibility, user, room_id)):
                continue
            found.append((listed, ref))
    found.sort(key=recency, reverse=True)
    return found


async def _was_in(rooms: Rooms, visibility: Visibility, user: User, room_id: str) -> bool:
    room = await rooms.get(room_id)
    return room is not None and (await visibility.sight_line(room, user.user_id)).ever_joined


def is_put_out(user: User, ref: MembershipRef) -> bool:
    """Whether the user was kicked or banned."""
    return ref.membership == "ban" or (ref.membership == "leave" and ref.sender not in ("", user.user_id))


def recency(listed: Listed) -> Activity:
    """The newest event that people would call activity, or the own membership's."""
    room, ref = listed
    own = Activity(ref.ts, ref.position)
    return max(room.bumped, own) if ref.membership == "join" else own


def bump_stamp(listed: Listed) -> int:
    """What clients order rooms by, of whatever shards they are (MSC4186 "bump_stamp"): a time in ms."""
    return recency(listed).ts


def window(listed: Sequence[Listed], wanted: RoomList) -> list[Listed]:
    """The rooms in the list's ranges; all of them when it names none."""
    if wanted.ranges is None:
        return list(listed)
    indexes = sorted({i for low, high in wanted.ranges for i in range(low, min(high + 1, len(listed)))})
    return [listed[i] for i in indexes]


async def matching(rooms: Rooms, user: User, listed: Sequence[Listed], filters: ListFilters) -> list[Listed]:
    """The rooms that the filters let through, in the same order."""
    direct = direct_rooms(user) if filters.is_dm is not None else frozenset()
    in_spaces = await _children_of(rooms, filters.spaces) if filters.spaces is not None else None
    return [item for item in listed if _matches(user, item, filters, item[0].room_id in direct, in_spaces)]


def direct_rooms(user: User) -> frozenset[str]:
    """The rooms that the user's m.direct names."""
    lists = user.global_data("m.direct").values()
    return frozenset(
        room_id for ids in lists if isinstance(ids, list) for room_id in ids if isinstance(room_id, str)
    )


async def _children_of(rooms: Rooms, spaces: Sequence[str]) -> set[str]:
    children: set[str] = set()
    for space_id in spaces:
        with LeftOutIfBroken(space_id):
            space = await rooms.get(space_id)
            if space is not None:
                children.update(
                    key
                    for (type, key), event in space.head.state.items()
                    if type == "m.space.child" and isinstance(event.content.get("via"), list)
                )
    return children


def _matches(
    user: User, item: Listed, filters: ListFilters, is_direct: bool, in_spaces: set[str] | None
) -> bool:
    room, ref = item
    if filters.is_dm is not None and is_direct != filters.is_dm:
        return False
    if filters.is_invite is not None and (ref.membership == "invite") != filters.is_invite:
        return False
    if filters.is_encrypted is not None and room.is_encrypted != filters.is_encrypted:
        return False
    if in_spaces is not None and room.room_id not in in_spaces:
        return False
    if filters.room_types is not None or filters.not_room_types:
        if room.room_type in filters.not_room_types:
            return False
        if filters.room_types is not None and room.room_type not in filters.room_types:
            return False
    if filters.room_name_like is not None:
        # Whoever was put out is told nothing of its present name.
        name = room.name if ref.membership in PRESENT else None
        if not isinstance(name, str) or filters.room_name_like.casefold() not in name.casefold():
            return False
    if filters.tags is not None or filters.not_tags:
        tags = user.room_tags(room.room_id)
        if filters.tags is not None and not any(tag in tags for tag in filters.tags):
            return False
        if any(tag in tags for tag in filters.not_tags):
            return False
    return True
