"""Replacing a room by one of another version (spec: client-server "Room Upgrades")."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import orjson

from homeserver.consumers.successors import Successors, predecessor
from homeserver.errors import MatrixError, forbidden
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.power_levels import CREATOR_LEVEL, in_integers
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.authoring import Author, EventTemplate
from homeserver.rooms.creation import Creation
from homeserver.rooms.directory import Directory
from homeserver.rooms.membership import MemberProfiles
from homeserver.rooms.posting import post
from homeserver.rooms.redaction import power_levels
from homeserver.rooms.room import Room, RoomHead
from homeserver.rooms.rooms import Rooms
from homeserver.single_flight import SingleFlight
from homeserver.users.users import Users
from storage.log import Entry, Kind

REPLACING = "replacing"
"""Notice type: the user is replacing the room under the entry's key; the body: the new one's id, as JSON."""

TRANSFERRED = (
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
)


class Upgrade:
    """Upgrades rooms in the name of local users."""

    def __init__(
        self,
        rooms: Rooms,
        author: Author,
        creation: Creation,
        aliases: Aliases,
        directory: Directory,
        profiles: MemberProfiles,
        successors: Successors,
        users: Users,
    ) -> None:
        self._rooms = rooms
        self._author = author
        self._creation = creation
        self._aliases = aliases
        self._directory = directory
        self._profiles = profiles
        self._successors = successors
        self._users = users
        self._under_way: SingleFlight[tuple[str, str, str, tuple[str, ...]], str] = SingleFlight()

    async def upgrade(
        self, room_id: str, user_id: str, new_version: str, additional_creators: Sequence[str]
    ) -> str:
        """The replacement's id; whoever asks for the same meanwhile or once more gets that one.

        Raises 400 M_UNSUPPORTED_ROOM_VERSION, 403 without the power, 503 before all members are known.
        """
        wanted = (room_id, user_id, new_version, tuple(additional_creators))
        return await self._under_way.run(wanted, lambda: self._upgrade(*wanted))

    async def _upgrade(
        self, room_id: str, user_id: str, new_version: str, additional_creators: Sequence[str]
    ) -> str:
        version = self._creation.version_of(new_version)
        old = await self._rooms.get(room_id)
        if old is None or user_id not in old.joined:
            raise forbidden("You are not in this room")
        levels = power_levels(old.version, old.head.lookup)
        if levels.user_level(user_id) < levels.event_level("m.room.tombstone", is_state=True):
            raise forbidden("You may not upgrade this room")
        if additional_creators and not version.privileged_creators:
            raise MatrixError(400, "M_BAD_JSON", "This room version has no additional creators")
        new = await self._replacement(old, user_id, version, additional_creators)
        if new is None:
            # Who is banned is among the members, and has to stay so.
            old = await self._rooms.whole(old)
            member = {"membership": "join", **await self._profiles.member_profile(user_id)}
            creation_content = _creation_content(old, additional_creators)
            events = self._first_events(old, version, user_id, member, creation_content)
            new = await self._begun(old, user_id, version, additional_creators, events)
            if new is None:
                new = await self._creation.create_with(
                    version,
                    user_id,
                    creation_content,
                    events,
                    lambda new_id: self._noted(old, new_id, user_id),
                )
            await self._close_old(old, new.room_id, user_id)
        await self._aliases.move(old.room_id, new.room_id)
        if await self._directory.is_published(old.room_id):
            await self._directory.publish(new.room_id, True, is_admin=True)
            await self._directory.publish(old.room_id, False)
        await self._successors.carry_over(user_id, old.room_id, new.room_id)
        return new.room_id

    async def _replacement(
        self, old: Room, user_id: str, version: RoomVersion, additional_creators: Sequence[str]
    ) -> Room | None:
        """The room that this user has replaced the old one by already, if that is such a one as they want.

        What comes after the tombstone may have been cut short. A second replacement would divide the members.
        """
        tombstone = old.head.state.get(("m.room.tombstone", ""))
        new_room_id = tombstone.content.get("replacement_room") if tombstone is not None else None
        if tombstone is None or not isinstance(new_room_id, str) or tombstone.sender != user_id:
            return None
        return await self._as_wanted(new_room_id, old, user_id, version, additional_creators)

    async def _begun(
        self,
        old: Room,
        user_id: str,
        version: RoomVersion,
        additional_creators: Sequence[str],
        events: Sequence[EventTemplate],
    ) -> Room | None:
        """The room that this user has made before they were cut short, if it would be made so now.

        It would not where the old room has changed meanwhile (somebody was banned there).
        """
        notice = await self._users.notice(user_id, REPLACING, old.room_id)
        if notice is None:
            return None
        new = await self._as_wanted(orjson.loads(notice.body), old, user_id, version, additional_creators)
        wanted = {(event.type, event.state_key or ""): event.content for event in events}
        if new is None or any(new.state_content(*key) != content for key, content in wanted.items()):
            return None
        return new

    async def _as_wanted(
        self,
        new_room_id: str,
        old: Room,
        user_id: str,
        version: RoomVersion,
        additional_creators: Sequence[str],
    ) -> Room | None:
        """The room, if this user made it in the place of the old one, as they want it, and is still there."""
        new = await self._rooms.get(new_room_id)
        if new is None or user_id not in new.joined:
            return None
        create = new.head.state["m.room.create", ""]
        made = (create.sender, new.version, create.content.get("additional_creators", []), predecessor(new))
        wanted = (user_id, version, list(additional_creators), old.room_id)
        return new if made == wanted else None

    @asynccontextmanager
    async def _noted(self, old: Room, new_room_id: str, user_id: str) -> AsyncIterator[None]:
        """Note which room will replace the old one, so that it is found should the tombstone not follow."""
        notice = Entry(
            kind=Kind.NOTICE,
            stream=user_id,
            type=REPLACING,
            key=old.room_id,
            body=orjson.dumps(new_room_id),
            ts=self._author.now(),
        )
        await self._users.append(user_id, [notice])
        yield

    def _first_events(
        self, old: Room, version: RoomVersion, user_id: str, member: JsonObject, creation: JsonObject
    ) -> list[EventTemplate]:
        state = old.head.state

        def copied(type: str, state_key: str = "") -> EventTemplate:
            return EventTemplate(type, user_id, state[type, state_key].content, state_key=state_key)

        new_levels = _new_power_levels(old, version, user_id, creation)
        # Whatever the copied levels say, the upgrader has to be able to write the rest of the state.
        working = {**new_levels, "users": {**new_levels.get("users", {})}}
        if not version.privileged_creators:
            working["users"][user_id] = max(100, int(working["users"].get(user_id, 0)))
        events = [
            EventTemplate("m.room.member", user_id, member, state_key=user_id),
            EventTemplate("m.room.power_levels", user_id, working, state_key=""),
        ]
        events += [copied(type) for type in TRANSFERRED if (type, "") in state]
        events += [
            copied(type, key)
            for type, key in state
            if (type == "m.space.child" and state[type, key].content.get("via"))
            or (type == "m.room.member" and state[type, key].membership == "ban")
        ]
        if ("m.room.canonical_alias", "") in state:
            events.append(copied("m.room.canonical_alias"))
        if working != new_levels:
            events.append(EventTemplate("m.room.power_levels", user_id, new_levels, state_key=""))
        return events

    async def _close_old(self, old: Room, new_room_id: str, user_id: str) -> None:
        tombstone = {"body": "This room has been replaced", "replacement_room": new_room_id}

        def decide(head: RoomHead) -> list[EventTemplate]:
            events = [EventTemplate("m.room.tombstone", user_id, tombstone, state_key="")]
            if ("m.room.canonical_alias", "") in head.state:
                events.append(EventTemplate("m.room.canonical_alias", user_id, {}, state_key=""))
            levels = power_levels(old.version, head.lookup)
            current = head.state.get(("m.room.power_levels", ""))
            needed = levels.event_level("m.room.power_levels", is_state=True)
            if current is not None and levels.user_level(user_id) >= max(50, needed):
                content = dict(current.content)
                floor = max(50, int(content.get("users_default", 0)) + 1)
                content["events_default"] = max(floor, int(content.get("events_default", 0)))
                content["invite"] = max(floor, int(content.get("invite", 0)))
                events.append(EventTemplate("m.room.power_levels", user_id, content, state_key=""))
            return events

        await post(self._rooms, self._author, old, decide)


def _creation_content(old: Room, additional_creators: Sequence[str]) -> JsonObject:
    content: JsonObject = {"predecessor": {"room_id": old.room_id, "event_id": old.head.tips[0]}}
    create = old.state_content("m.room.create")
    for kept in ("type", "m.federate"):
        if kept in create:
            content[kept] = create[kept]
    if additional_creators:
        content["additional_creators"] = list(additional_creators)
    return content


def _new_power_levels(old: Room, version: RoomVersion, user_id: str, creation: JsonObject) -> JsonObject:
    """The old levels; creators that stand above all levels are not among the users any more."""
    levels: JsonObject = msgspec.convert(old.state_content("m.room.power_levels"), dict)
    if version.integer_power_levels:
        levels = in_integers(old.version, levels)
    users = levels.get("users")
    users = dict(users) if isinstance(users, dict) else {}
    if version.privileged_creators:
        for creator in (user_id, *creation.get("additional_creators", [])):
            users.pop(creator, None)
        events = levels.get("events")
        raised = dict(events) if isinstance(events, dict) else {}
        raised["m.room.tombstone"] = max(150, int(raised.get("m.room.tombstone", 0)))
        levels["events"] = raised
    elif old.version.privileged_creators:
        mine = power_levels(old.version, old.head.lookup).user_level(user_id)
        users[user_id] = 100 if mine >= CREATOR_LEVEL else mine
    levels["users"] = users
    return levels
