"""The authorisation rules: whether an event may be, given a state of the room (spec: rooms).

One function for all room versions: the rules stand in the order of the specification and in its words,
and ask the version for its features where versions differ. `check_auth` is the part that depends on the
state, and is asked of several states for each event: that of its auth events, that before it, the
current one. `check_auth_events` is the part about the event's own `auth_events`, asked once.

Two rules are kept elsewhere. That events are signed by those who must sign (and so whether
`join_authorised_via_users_server` is backed by that user's server) is `signing.verify_event_signatures`;
that a create event has no `room_id` from room version 12 on is part of the format, in `parse_pdu`.
"""

from collections.abc import Callable, Collection, Container, Iterable, Sequence
from typing import Any, Protocol

from homeserver.protocol.canonical_json import InvalidJson
from homeserver.protocol.identifiers import InvalidIdentifier, check_user_id, server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.power_levels import (
    NAMED_LEVELS,
    PowerLevels,
    creator_of,
    parse_level,
    privileged_creators,
)
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.protocol.signing import InvalidSignature, verify_json_signature

MAX_THIRD_PARTY_CHECKS = 100
"""Pairs of a signature and a key that are tried for one third-party invite."""


class AuthError(Exception):
    """The event is not allowed. `reason` names the rule that says so."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MalformedLevels(AuthError):
    """These power levels are not allowed, whoever sends them."""


class EventLike(Protocol):
    """What the rules look at in an event of the state."""

    @property
    def event_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def sender(self) -> str: ...
    @property
    def state_key(self) -> str | None: ...
    @property
    def content(self) -> JsonObject: ...


class Candidate(EventLike, Protocol):
    """What the rules look at in the event that is checked; it need not be signed yet."""

    @property
    def room_id(self) -> str: ...
    @property
    def prev_events(self) -> Sequence[str]: ...
    @property
    def redacts(self) -> str | None: ...


class AuthEvent(EventLike, Protocol):
    """What the rules look at in an event's auth events."""

    @property
    def room_id(self) -> str: ...


StateLookup = Callable[[str, str], EventLike | None]
"""Type and state key → the event that stands there in the state."""


def lookup_in(events: Iterable[EventLike]) -> StateLookup:
    """The state that consists of these events."""
    state = {(event.type, event.state_key): event for event in events}
    return lambda event_type, state_key: state.get((event_type, state_key))


def create_event_id(room_id: str) -> str:
    """The id of the create event of a room that is named by it."""
    return "$" + room_id[1:]


# --- selection --------------------------------------------------------------------------------------


def auth_event_keys(
    version: RoomVersion, type: str, sender: str, state_key: str | None, content: JsonObject
) -> list[tuple[str, str]]:
    """The keys of the state events that must be the `auth_events` of an event, as far as they exist.

    spec: server-server#auth-events-selection
    """
    if type == "m.room.create":
        return []
    keys = [("m.room.power_levels", ""), ("m.room.member", sender)]
    if not version.room_id_is_create_hash:
        keys.append(("m.room.create", ""))
    if type != "m.room.member":
        return keys
    if state_key is not None and state_key != sender:
        keys.append(("m.room.member", state_key))
    membership = content.get("membership")
    if membership in ("join", "invite", "knock"):
        keys.append(("m.room.join_rules", ""))
    if membership == "invite":
        token = _third_party_signed(content).get("token")
        if isinstance(token, str):
            keys.append(("m.room.third_party_invite", token))
    if membership == "join" and version.restricted_joins:
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str) and ("m.room.member", authoriser) not in keys:
            keys.append(("m.room.member", authoriser))
    return keys


def _third_party_signed(content: JsonObject) -> JsonObject:
    invite = content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, dict) else None
    return signed if isinstance(signed, dict) else {}


# --- rules on the event's own auth events -----------------------------------------------------------


def check_auth_events(
    version: RoomVersion,
    event: Candidate,
    auth_events: Collection[AuthEvent],
    *,
    rejected: Container[str] = (),
) -> None:
    """Raises AuthError if the `auth_events` of an event are not what they may be.

    `auth_events` are all the events that the event names there; `rejected` has the ids of those events
    that were rejected. Whether what they say allows the event is for `check_auth`.
    """
    if event.type == "m.room.create":
        return
    if version.room_id_is_create_hash and create_event_id(event.room_id) in rejected:
        raise AuthError("room id: the room's create event was rejected")
    expected = set(auth_event_keys(version, event.type, event.sender, event.state_key, event.content))
    seen = set()
    for auth_event in auth_events:
        key = (auth_event.type, auth_event.state_key)
        if key in seen:
            raise AuthError(f"auth events: more than one for {key}")
        seen.add(key)
        if key not in expected:
            raise AuthError(f"auth events: {key} does not belong there")
        if auth_event.event_id in rejected:
            raise AuthError(f"auth events: {auth_event.event_id} was itself rejected")
        if auth_event.room_id != event.room_id:
            raise AuthError(f"auth events: {auth_event.event_id} is of another room")
    if not version.room_id_is_create_hash and ("m.room.create", "") not in seen:
        raise AuthError("auth events: there is no m.room.create event among them")


# --- rules on the state -----------------------------------------------------------------------------


def is_allowed(version: RoomVersion, event: Candidate, state: StateLookup) -> bool:
    """Whether the rules of the room version allow the event in this state; see `check_auth`."""
    try:
        check_auth(version, event, state)
    except AuthError:
        return False
    return True


def check_auth(version: RoomVersion, event: Candidate, state: StateLookup) -> None:
    """Raises AuthError unless the rules of the room version allow the event in this state."""
    # If type is m.room.create:
    if event.type == "m.room.create":
        _check_create(version, event)
        return

    create = state("m.room.create", "")
    if create is None:
        raise AuthError("create: there is no m.room.create event in the state")

    # If the event's room_id is not an event ID for an accepted m.room.create event, with the sigil !
    # instead of $, reject.
    if version.room_id_is_create_hash and create.event_id != create_event_id(event.room_id):
        raise AuthError("room id: it is not the id of the room's create event")

    # If the content of the m.room.create event in the room state has the property m.federate set to
    # false, and the sender domain of the event does not match the sender domain of the create event,
    # reject.
    if create.content.get("m.federate") is False and _domain(event.sender) != _domain(create.sender):
        raise AuthError("m.federate: users of other servers may not take part in this room")

    # If type is m.room.aliases:
    if version.special_aliases_auth and event.type == "m.room.aliases":
        # If event has no state_key, reject. If sender's domain doesn't match state_key, reject.
        if event.state_key != _domain(event.sender):
            raise AuthError("aliases: the state key is not the sender's domain")
        # Otherwise, allow.
        return

    # If type is m.room.member:
    if event.type == "m.room.member":
        _check_member(version, event, create, state)
        return

    # If the sender's current membership state is not join, reject.
    if _membership(state, event.sender) != "join":
        raise AuthError("membership: the sender is not joined to the room")

    levels = _levels(version, create, state)
    sender_level = levels.user_level(event.sender)

    # If type is m.room.third_party_invite:
    if event.type == "m.room.third_party_invite":
        # Allow if and only if sender's current power level is greater than or equal to the invite level.
        if sender_level < levels.invite:
            raise AuthError("third-party invite: the sender may not invite")
        return

    # If the event type's required power level is greater than the sender's power level, reject.
    required = levels.event_level(event.type, event.state_key is not None)
    if required > sender_level:
        raise AuthError(f"power: {event.type} needs level {required}, the sender has {sender_level}")

    # If the event has a state_key that starts with an @ and does not match the sender, reject.
    if event.state_key is not None and event.state_key.startswith("@") and event.state_key != event.sender:
        raise AuthError("state key: it is the id of another user")

    # If type is m.room.power_levels:
    if event.type == "m.room.power_levels":
        _check_power_levels(version, event, create, state("m.room.power_levels", ""), sender_level)

    # If type is m.room.redaction (room versions 1 and 2):
    if version.redaction_auth and event.type == "m.room.redaction":
        _check_redaction(event, levels, sender_level)

    # Otherwise, allow.


def _domain(identifier: str) -> str:
    try:
        return server_name_of(identifier)
    except InvalidIdentifier as error:
        raise AuthError(str(error)) from None


def _membership(state: StateLookup, user_id: str) -> Any:
    member = state("m.room.member", user_id)
    return None if member is None else member.content.get("membership")


def _levels(version: RoomVersion, create: EventLike, state: StateLookup) -> PowerLevels:
    power_levels = state("m.room.power_levels", "")
    return PowerLevels(version, None if power_levels is None else power_levels.content, create)


def _check_create(version: RoomVersion, event: Candidate) -> None:
    # If it has any prev_events, reject.
    if event.prev_events:
        raise AuthError("create: it has prev_events")
    # If the domain of the room_id does not match the domain of the sender, reject.
    if not version.room_id_is_create_hash and _domain(event.room_id) != _domain(event.sender):
        raise AuthError("create: the room id is not of the sender's domain")
    # If content.room_version is present and is not a recognised version, reject.
    identifier = event.content.get("room_version", "1")
    if not isinstance(identifier, str) or identifier not in ROOM_VERSIONS:
        raise AuthError("create: the room version is not recognised")
    # If content has no creator property, reject.
    if not version.implicit_room_creator and "creator" not in event.content:
        raise AuthError("create: there is no creator in the content")
    # If additional_creators is present in content and is not an array of strings where each string
    # passes the same user ID validation applied to sender, reject.
    if version.privileged_creators and "additional_creators" in event.content:
        additional = event.content["additional_creators"]
        if not isinstance(additional, list) or not all(_is_user_id(user_id) for user_id in additional):
            raise AuthError("create: additional_creators is not a list of user ids")
    # Otherwise, allow.


def _is_user_id(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        check_user_id(value)
    except InvalidIdentifier:
        return False
    return True


# --- membership -------------------------------------------------------------------------------------


def _check_member(version: RoomVersion, event: Candidate, create: EventLike, state: StateLookup) -> None:
    # If there is no state_key property, or no membership property in content, reject.
    target = event.state_key
    membership = event.content.get("membership")
    if target is None or membership is None:
        raise AuthError("member: there is no state_key, or no membership in the content")
    if membership == "join":
        _check_join(version, event, target, create, state)
    elif membership == "invite":
        _check_invite(version, event, target, create, state)
    elif membership == "leave":
        _check_leave(version, event, target, create, state)
    elif membership == "ban":
        _check_ban(version, event, target, create, state)
    elif membership == "knock" and version.knocking:
        _check_knock(version, event, target, state)
    else:
        # Otherwise, the membership is unknown. Reject.
        raise AuthError("member: the membership is unknown")


def _join_rule(state: StateLookup) -> Any:
    join_rules = state("m.room.join_rules", "")
    return "invite" if join_rules is None else join_rules.content.get("join_rule", "invite")


def _check_join(
    version: RoomVersion, event: Candidate, target: str, create: EventLike, state: StateLookup
) -> None:
    # If the only previous event is an m.room.create and the state_key is the creator, allow.
    if tuple(event.prev_events) == (create.event_id,) and target == creator_of(version, create):
        return
    # If the sender does not match state_key, reject.
    if event.sender != target:
        raise AuthError("join: nobody can join for somebody else")
    # If the sender is banned, reject.
    membership = _membership(state, target)
    if membership == "ban":
        raise AuthError("join: the user is banned")
    rule = _join_rule(state)
    # If the join_rule is invite or knock then allow if membership state is invite or join.
    if rule == "invite" or (rule == "knock" and version.knocking):
        if membership in ("invite", "join"):
            return
        raise AuthError(f"join: the join rule is {rule} and the user is not invited")
    # If the join_rule is restricted or knock_restricted:
    if (rule == "restricted" and version.restricted_joins) or (
        rule == "knock_restricted" and version.knock_restricted
    ):
        # If membership state is join or invite, allow.
        if membership in ("invite", "join"):
            return
        # If the join_authorised_via_users_server key in content is not a user with sufficient permission
        # to invite other users or is not a joined member of the room, reject.
        authoriser = event.content.get("join_authorised_via_users_server")
        if not isinstance(authoriser, str) or _membership(state, authoriser) != "join":
            raise AuthError("join: it is not authorised by a joined member of the room")
        levels = _levels(version, create, state)
        if levels.user_level(authoriser) < levels.invite:
            raise AuthError("join: the user who authorised it may not invite")
        # Otherwise, allow.
        return
    # If the join_rule is public, allow. Otherwise, reject.
    if rule != "public":
        raise AuthError("join: the join rule does not allow it")


def _check_invite(
    version: RoomVersion, event: Candidate, target: str, create: EventLike, state: StateLookup
) -> None:
    target_membership = _membership(state, target)
    # If content has a third_party_invite property:
    if "third_party_invite" in event.content:
        # If target user is banned, reject.
        if target_membership == "ban":
            raise AuthError("third-party invite: the user is banned")
        _check_third_party_signed(event, target, state)
        return
    # If the sender's current membership state is not join, reject.
    if _membership(state, event.sender) != "join":
        raise AuthError("invite: the sender is not joined to the room")
    # If target user's current membership state is join or ban, reject.
    if target_membership in ("join", "ban"):
        raise AuthError(f"invite: the user's membership is {target_membership}")
    # If the sender's power level is greater than or equal to the invite level, allow. Otherwise, reject.
    levels = _levels(version, create, state)
    if levels.user_level(event.sender) < levels.invite:
        raise AuthError("invite: the sender's power is below the invite level")


def _check_third_party_signed(event: Candidate, target: str, state: StateLookup) -> None:
    # If content.third_party_invite does not have a signed property, reject. If signed does not have mxid
    # and token properties, reject.
    signed = _third_party_signed(event.content)
    token = signed.get("token")
    if "mxid" not in signed or not isinstance(token, str):
        raise AuthError("third-party invite: there is no signed object with mxid and token")
    # If mxid does not match state_key, reject.
    if signed["mxid"] != target:
        raise AuthError("third-party invite: it was signed for another user")
    # If there is no m.room.third_party_invite event in the current room state with state_key matching
    # token, reject.
    invite = state("m.room.third_party_invite", token)
    if invite is None:
        raise AuthError("third-party invite: the room has none with this token")
    # If sender does not match sender of the m.room.third_party_invite, reject.
    if event.sender != invite.sender:
        raise AuthError("third-party invite: it was made by another user")
    # If any signature in signed matches any public key in the m.room.third_party_invite event, allow.
    # Otherwise, reject.
    if third_party_key(invite.content, signed) is None:
        raise AuthError("third-party invite: no signature matches a key of it")


def third_party_key(content: JsonObject, signed: JsonObject) -> JsonObject | None:
    """What an m.room.third_party_invite event says of the key that signed, None if it has no such key.

    Its keys are in `public_key` and in the list `public_keys`.
    """
    several = content.get("public_keys")
    entries = [content, *(several if isinstance(several, list) else [])]
    keys = [
        entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("public_key"), str)
    ]
    signatures = signed.get("signatures")
    tries = 0
    for server, own in signatures.items() if isinstance(signatures, dict) else ():
        for key_id in own if isinstance(own, dict) else ():
            if not key_id.startswith("ed25519:"):
                continue
            for key in keys:
                tries += 1
                if tries > MAX_THIRD_PARTY_CHECKS:
                    return None
                try:
                    verify_json_signature(signed, server, key_id, key["public_key"])
                except (InvalidSignature, InvalidJson):
                    continue
                return key
    return None


def _check_leave(
    version: RoomVersion, event: Candidate, target: str, create: EventLike, state: StateLookup
) -> None:
    sender_membership = _membership(state, event.sender)
    # If the sender matches state_key, allow if and only if that user's current membership state is
    # invite, join, or knock.
    if event.sender == target:
        if sender_membership in ("invite", "join") or (sender_membership == "knock" and version.knocking):
            return
        raise AuthError("leave: the user is not in the room, nor invited, nor knocking")
    # If the sender's current membership state is not join, reject.
    if sender_membership != "join":
        raise AuthError("kick: the sender is not joined to the room")
    levels = _levels(version, create, state)
    sender_level = levels.user_level(event.sender)
    # If the target user's current membership state is ban, and the sender's power level is less than the
    # ban level, reject.
    if _membership(state, target) == "ban" and sender_level < levels.ban:
        raise AuthError("unban: the sender's power is below the ban level")
    # If the sender's power level is greater than or equal to the kick level, and the target user's power
    # level is less than the sender's power level, allow. Otherwise, reject.
    if sender_level < levels.kick:
        raise AuthError("kick: the sender's power is below the kick level")
    if levels.user_level(target) >= sender_level:
        raise AuthError("kick: the user's power is not below the sender's")


def _check_ban(
    version: RoomVersion, event: Candidate, target: str, create: EventLike, state: StateLookup
) -> None:
    # If the sender's current membership state is not join, reject.
    if _membership(state, event.sender) != "join":
        raise AuthError("ban: the sender is not joined to the room")
    # If the sender's power level is greater than or equal to the ban level, and the target user's power
    # level is less than the sender's power level, allow. Otherwise, reject.
    levels = _levels(version, create, state)
    sender_level = levels.user_level(event.sender)
    if sender_level < levels.ban:
        raise AuthError("ban: the sender's power is below the ban level")
    if levels.user_level(target) >= sender_level:
        raise AuthError("ban: the user's power is not below the sender's")


def _check_knock(version: RoomVersion, event: Candidate, target: str, state: StateLookup) -> None:
    # If the join_rule is anything other than knock or knock_restricted, reject.
    rule = _join_rule(state)
    if rule != "knock" and not (rule == "knock_restricted" and version.knock_restricted):
        raise AuthError("knock: the join rule does not allow it")
    # If sender does not match state_key, reject.
    if event.sender != target:
        raise AuthError("knock: nobody can knock for somebody else")
    # If the sender's current membership is not ban, invite, or join, allow. Otherwise, reject.
    membership = _membership(state, event.sender)
    if membership in ("ban", "invite", "join"):
        raise AuthError(f"knock: the user's membership is {membership}")


# --- power levels and redactions --------------------------------------------------------------------


def _check_power_levels(
    version: RoomVersion,
    event: Candidate,
    create: EventLike,
    current: EventLike | None,
    sender_level: int,
) -> None:
    new = event.content
    if version.integer_power_levels:
        # If any of the properties users_default, events_default, state_default, ban, redact, kick, or
        # invite in content are present and not an integer, reject.
        for name in NAMED_LEVELS:
            if name in new and parse_level(version, new[name]) is None:
                raise MalformedLevels(f"power levels: {name} is not an integer")
        # If either of the properties events or notifications in content are present and not an object
        # with values that are integers, reject.
        for table in ("events", "notifications"):
            _check_table(version, new, table)
    # If the users property in content is not an object with keys that are valid user IDs with values
    # that are integers (or a string that is an integer), reject.
    _check_table(version, new, "users")
    users = new.get("users", {})
    if not all(_is_user_id(user_id) for user_id in users):
        raise MalformedLevels("power levels: users has a key that is not a user id")
    # If the users property in content contains the sender of the m.room.create event or any of the
    # additional_creators array, reject.
    if not privileged_creators(version, create).isdisjoint(users):
        raise MalformedLevels("power levels: users names a creator of the room")
    # If there is no previous m.room.power_levels event in the room, allow.
    if current is None:
        return
    old = current.content
    # For the properties users_default, events_default, state_default, ban, redact, kick, invite check if
    # they were added, changed or removed. For each found alteration: if the current value is higher than
    # the sender's current power level, reject. If the new value is higher, reject.
    for name in NAMED_LEVELS:
        _check_change(name, _level(version, old, name), _new_level(version, new, name), sender_level)
    # For each entry being changed in, or removed from, the events or notifications properties: if the
    # current value is greater than the sender's current power level, reject. For each entry being added
    # to, or changed in, them: if the new value is greater, reject.
    for table in ("events", "notifications") if version.notifications_power_check else ("events",):
        _check_table(version, new, table)
        for key, before, after in _entries(version, old, new, table):
            _check_change(f"{table} {key}", before, after, sender_level)
    # For each entry being changed in, or removed from, the users property, other than the sender's own
    # entry: if the current value is greater than or equal to the sender's current power level, reject.
    # For each entry being added to, or changed in, it: if the new value is greater, reject.
    for user_id, before, after in _entries(version, old, new, "users"):
        _check_change(f"users {user_id}", before, after, sender_level)
        if before != after and before is not None and user_id != event.sender and before >= sender_level:
            raise AuthError(f"power levels: {user_id} has as much power as the sender")
    # Otherwise, allow.


def _level(version: RoomVersion, content: JsonObject, name: str) -> int | None:
    return parse_level(version, content.get(name))


def _new_level(version: RoomVersion, content: JsonObject, name: str) -> int | None:
    level = _level(version, content, name)
    if level is None and name in content:
        raise MalformedLevels(f"power levels: {name} is not an integer")
    return level


def _check_table(version: RoomVersion, content: JsonObject, table: str) -> None:
    entries = content.get(table, {})
    if not isinstance(entries, dict) or any(parse_level(version, v) is None for v in entries.values()):
        raise MalformedLevels(f"power levels: {table} is not an object of integers")


def _entries(
    version: RoomVersion, old: JsonObject, new: JsonObject, table: str
) -> Iterable[tuple[str, int | None, int | None]]:
    """Key, level before and level after (None if not there) of all that stand in either."""
    before, after = old.get(table, {}), new.get(table, {})
    before = before if isinstance(before, dict) else {}
    for key in dict.fromkeys((*before, *after)):
        yield key, parse_level(version, before.get(key)), parse_level(version, after.get(key))


def _check_change(what: str, before: int | None, after: int | None, sender_level: int) -> None:
    if before == after:
        return
    if before is not None and before > sender_level:
        raise AuthError(f"power levels: {what} is {before}, above the sender's {sender_level}")
    if after is not None and after > sender_level:
        raise AuthError(f"power levels: {what} would be {after}, above the sender's {sender_level}")


def _check_redaction(event: Candidate, levels: PowerLevels, sender_level: int) -> None:
    # If the sender's power level is greater than or equal to the redact level, allow.
    if sender_level >= levels.redact:
        return
    # If the domain of the event_id of the event being redacted is the same as the domain of the event_id
    # of the m.room.redaction, allow. Otherwise, reject.
    if event.redacts is None or _domain(event.redacts) != _domain(event.event_id):
        raise AuthError("redaction: it is of another server's event, and the sender may not redact those")
