"""Creating a room (spec: client-server "Creation": presets and the order of the first events)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Literal

import msgspec

from homeserver.errors import MatrixError, bad_json, invalid_param
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.rooms.authoring import Author, EventTemplate, RoomProposal, check_content
from homeserver.rooms.membership import Membership
from homeserver.rooms.room import Room, RoomHead
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.third_party_invites import ByAddress

Preset = Literal["private_chat", "trusted_private_chat", "public_chat"]

MAX_INITIAL_STATE = 100
MAX_INVITES = 100


class InitialState(msgspec.Struct, frozen=True):
    type: str
    content: JsonObject
    state_key: str = ""


class NewRoom(msgspec.Struct, frozen=True):
    """What a client may say of the room that it wants; field names are those of the request."""

    preset: Preset | None = None
    visibility: Literal["public", "private"] = "private"
    name: str | None = None
    topic: str | None = None
    room_alias_name: str | None = None
    invite: Sequence[str] = ()
    invite_3pid: Sequence[ByAddress] = ()
    is_direct: bool = False
    room_version: str | None = None
    creation_content: JsonObject = {}
    initial_state: Sequence[InitialState] = ()
    power_level_content_override: JsonObject = {}


PRESETS: dict[str, tuple[str, str, str]] = {
    "private_chat": ("invite", "shared", "can_join"),
    "trusted_private_chat": ("invite", "shared", "can_join"),
    "public_chat": ("public", "shared", "forbidden"),
}
"""Preset → join rule, history visibility, guest access."""

_IGNORED_CREATION_KEYS = ("creator", "room_version")

Claim = Callable[[str], AbstractAsyncContextManager[None]]
"""Takes for a room, by its id, what only one may have, and gives it back if the room is not made."""


class Creation:
    """Makes rooms in the name of local users."""

    def __init__(self, rooms: Rooms, author: Author, membership: Membership, *, default_version: str) -> None:
        self._rooms = rooms
        self._author = author
        self._membership = membership
        self.default_version = default_version

    def version_of(self, wanted: str | None) -> RoomVersion:
        """Raises 400 M_UNSUPPORTED_ROOM_VERSION."""
        version = ROOM_VERSIONS.get(wanted or self.default_version)
        if version is None:
            raise MatrixError(400, "M_UNSUPPORTED_ROOM_VERSION", f"Room version {wanted!r} is not supported")
        return version

    async def create(
        self,
        creator: str,
        request: NewRoom,
        member_content: JsonObject,
        alias: str | None = None,
        claim: Claim | None = None,
        invites: Sequence[EventTemplate] = (),
    ) -> Room:
        """Create the room with the creator in it; other servers and the directory are the caller's next step.

        `member_content` is the creator's own member event; `alias` is a full alias that `claim` takes for the
        room; `invites` are of users of this server. All of these events are appended together.
        """
        version = self.version_of(request.room_version)
        templates = [*self.first_events(creator, request, version, member_content, alias), *invites]
        return await self.create_with(version, creator, request.creation_content, templates, claim)

    async def create_with(
        self,
        version: RoomVersion,
        creator: str,
        creation_content: JsonObject,
        templates: Sequence[EventTemplate],
        claim: Claim | None = None,
    ) -> Room:
        """Create a room of exactly these events behind its create event.

        Raises 400 M_INVALID_ROOM_STATE when the auth rules refuse one of them, and what `claim` does.
        """
        content = {key: value for key, value in creation_content.items() if key not in _IGNORED_CREATION_KEYS}
        content["room_version"] = version.identifier
        if not version.implicit_room_creator:
            content["creator"] = creator
        check_content(content)
        for template in templates:
            check_content(template.content)
        room_id, create = self._create_event(version, creator, content)
        room = Room(room_id, self._rooms.shards.of_room(room_id), version, self._author.now)
        events = [create, *templates]

        def decide(head: RoomHead) -> Sequence[EventTemplate]:
            return events

        self._rooms.adopt(room)
        claimed = nullcontext() if claim is None else claim(room_id)
        try:
            async with claimed:
                await self._rooms.submit(room, RoomProposal(self._author, room, decide))
        except BaseException as error:
            self._rooms.drop(room_id)
            if isinstance(error, MatrixError) and error.errcode in ("M_FORBIDDEN", "M_BAD_JSON"):
                # Nobody forbids anything here: the wishes do not go together.
                raise MatrixError(400, "M_INVALID_ROOM_STATE", error.error) from error
            raise
        await self._membership.leave_if_ended(room_id, creator)
        return room

    def _create_event(
        self, version: RoomVersion, creator: str, content: JsonObject
    ) -> tuple[str, EventTemplate]:
        """Where the room id is a hash, two rooms alike in the same millisecond need different times."""
        ts = self._author.now()
        while True:
            create = EventTemplate("m.room.create", creator, content, state_key="", ts=ts)
            room_id = self._author.new_room_id(version, create)
            if room_id not in self._rooms.activity and self._rooms.cached(room_id) is None:
                return room_id, create
            ts += 1

    def first_events(
        self,
        creator: str,
        request: NewRoom,
        version: RoomVersion,
        member_content: JsonObject,
        alias: str | None,
    ) -> list[EventTemplate]:
        """The events behind the create event, in the order the spec gives."""
        if len(request.initial_state) > MAX_INITIAL_STATE:
            raise invalid_param(f"initial_state: at most {MAX_INITIAL_STATE} events")
        if len(request.invite) > MAX_INVITES:
            raise invalid_param(f"invite: at most {MAX_INVITES} users")
        if any(event.type == "m.room.member" for event in request.initial_state):
            raise invalid_param("initial_state: people are invited by `invite`, which asks them first")
        preset = request.preset or ("public_chat" if request.visibility == "public" else "private_chat")
        join_rule, history, guests = PRESETS[preset]
        initial = {(event.type, event.state_key) for event in request.initial_state}

        def state(type: str, content: JsonObject, state_key: str = "") -> EventTemplate:
            return EventTemplate(type, creator, content, state_key=state_key)

        events = [
            state("m.room.member", member_content, creator),
            state("m.room.power_levels", self._power_levels(creator, request, version, preset)),
        ]
        if alias is not None and ("m.room.canonical_alias", "") not in initial:
            events.append(state("m.room.canonical_alias", {"alias": alias}))
        for type, key, value in (
            ("m.room.join_rules", "join_rule", join_rule),
            ("m.room.history_visibility", "history_visibility", history),
            ("m.room.guest_access", "guest_access", guests),
        ):
            if (type, "") not in initial and not (key == "guest_access" and guests == "forbidden"):
                events.append(state(type, {key: value}))
        for event in request.initial_state:
            events.append(state(event.type, event.content, event.state_key))
        if request.name is not None:
            events.append(state("m.room.name", {"name": request.name}))
        if request.topic is not None:
            topic = {"topic": request.topic, "m.topic": {"m.text": [{"body": request.topic}]}}
            events.append(state("m.room.topic", topic))
        return events

    def _power_levels(self, creator: str, request: NewRoom, version: RoomVersion, preset: str) -> JsonObject:
        users = {} if version.privileged_creators else {creator: 100}
        if preset == "trusted_private_chat" and not version.privileged_creators:
            users.update(dict.fromkeys(request.invite, 100))
        tombstone = 150 if version.privileged_creators else 100
        levels: JsonObject = {
            "users": users,
            "users_default": 0,
            "events": {
                "m.room.name": 50,
                "m.room.power_levels": 100,
                "m.room.history_visibility": 100,
                "m.room.canonical_alias": 50,
                "m.room.avatar": 50,
                "m.room.tombstone": tombstone,
                "m.room.server_acl": 100,
                "m.room.encryption": 100,
            },
            "events_default": 0,
            "state_default": 50,
            "ban": 50,
            "kick": 50,
            "redact": 50,
            "invite": 50 if preset == "public_chat" else 0,
            "historical": 100,
        }
        levels.update(request.power_level_content_override)
        return levels


def with_additional_creators(request: NewRoom, version: RoomVersion) -> NewRoom:
    """In versions with privileged creators a trusted chat makes its invitees creators (spec: presets)."""
    if request.preset != "trusted_private_chat" or not version.privileged_creators or not request.invite:
        return request
    given = request.creation_content.get("additional_creators", [])
    if not isinstance(given, list):
        raise bad_json("additional_creators must be a list of user ids")
    creators = [*given, *(user for user in request.invite if user not in given)]
    return msgspec.structs.replace(
        request, creation_content={**request.creation_content, "additional_creators": creators}
    )
