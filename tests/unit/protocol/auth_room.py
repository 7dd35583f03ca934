"""A room state in memory to try events against, for tests of the authorisation rules."""

from collections.abc import Sequence
from typing import Any

import pytest

from homeserver.protocol.event_auth import AuthError, check_auth
from homeserver.protocol.events import Event, load_event
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion

CREATOR, ADMIN, MOD, USER, OTHER = "@creator:a", "@admin:a", "@mod:a", "@user:a", "@other:b"
CREATE_ID = "$create-----------------------------------------"


def room_id_of(version: RoomVersion) -> str:
    return "!" + CREATE_ID[1:] if version.room_id_is_create_hash else "!room:a"


def make_event(
    version: RoomVersion,
    event_id: str,
    type: str,
    sender: str,
    state_key: str | None,
    content: JsonObject,
    *,
    room_id: str | None = None,
    prev_events: Sequence[str] = ("$before",),
    auth_events: Sequence[str] = (),
    origin_server_ts: int = 0,
    depth: int = 1,
    redacts: str | None = None,
) -> Event:
    """An event under an id of the test's choosing, as if it had been accepted before."""

    def references(ids: Sequence[str]) -> list[Any]:
        return list(ids) if version.event_ids_are_hashes else [[event_id, {}] for event_id in ids]

    pdu: JsonObject = {
        "type": type,
        "sender": sender,
        "content": content,
        "prev_events": references(prev_events),
        "auth_events": references(auth_events),
        "origin_server_ts": origin_server_ts,
        "depth": depth,
    }
    if state_key is not None:
        pdu["state_key"] = state_key
    if redacts is not None:
        pdu["redacts"] = redacts
    if not (version.room_id_is_create_hash and type == "m.room.create"):
        pdu["room_id"] = room_id or room_id_of(version)
    return load_event(version, pdu, event_id)


class AuthRoom:
    """A room with a creator (power 100 where creators have none of their own) and an admin, both joined.

    Levels: admin 100, moderator 50, everybody else 0. Join rule: invite.
    """

    def __init__(self, version: str) -> None:
        self.version = ROOM_VERSIONS[version]
        self.state: dict[tuple[str, str | None], Event] = {}
        self._count = 0
        self.set_create()
        self.member(CREATOR, "join")
        self.member(ADMIN, "join")
        self.levels()
        self.join_rule("invite")

    def event(
        self,
        type: str,
        sender: str,
        content: JsonObject | None = None,
        state_key: str | None = None,
        **fields: Any,
    ) -> Event:
        self._count += 1
        event_id = fields.pop("event_id", f"$event{self._count}:a")
        return make_event(self.version, event_id, type, sender, state_key, content or {}, **fields)

    def put(self, event: Event) -> Event:
        self.state[event.type, event.state_key] = event
        return event

    def set_create(self, **content: Any) -> Event:
        content = {"room_version": self.version.identifier, **content}
        if not self.version.implicit_room_creator:
            content.setdefault("creator", CREATOR)
        return self.put(self.event("m.room.create", CREATOR, content, "", event_id=CREATE_ID, prev_events=()))

    def member(self, user: str, membership: str, **content: Any) -> Event:
        return self.put(self.event("m.room.member", user, {"membership": membership, **content}, user))

    def levels(self, **content: Any) -> Event:
        users = {ADMIN: 100, MOD: 50, **content.pop("users", {})}
        if not self.version.privileged_creators:
            users.setdefault(CREATOR, 100)
        return self.put(self.event("m.room.power_levels", ADMIN, {"users": users, **content}, ""))

    def join_rule(self, rule: Any) -> Event:
        return self.put(self.event("m.room.join_rules", ADMIN, {"join_rule": rule}, ""))

    def check(self, event: Event) -> None:
        check_auth(self.version, event, lambda event_type, key: self.state.get((event_type, key)))

    def allows(
        self, type: str, sender: str, content: JsonObject | None = None, *args: Any, **fields: Any
    ) -> None:
        self.check(self.event(type, sender, content, *args, **fields))

    def refuses(
        self, why: str, type: str, sender: str, content: JsonObject | None = None, *args: Any, **fields: Any
    ) -> None:
        """`why` is part of the reason, which names the rule."""
        with pytest.raises(AuthError, match=why):
            self.check(self.event(type, sender, content, *args, **fields))

    def allows_member(self, sender: str, target: str, membership: Any, **content: Any) -> None:
        self.allows("m.room.member", sender, {"membership": membership, **content}, target)

    def refuses_member(self, why: str, sender: str, target: str, membership: Any, **content: Any) -> None:
        self.refuses(why, "m.room.member", sender, {"membership": membership, **content}, target)


VERSIONS = list(ROOM_VERSIONS)


def since(first: int) -> list[str]:
    """The room versions from this one on."""
    return VERSIONS[first - 1 :]


def until(last: int) -> list[str]:
    """The room versions up to and including this one."""
    return VERSIONS[:last]
