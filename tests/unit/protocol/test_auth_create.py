"""Authorisation rules on creation, on the event's own auth events, and on who may send at all
(HARDENING 2)."""

from typing import Any

import pytest

from homeserver.protocol.event_auth import AuthError, auth_event_keys, check_auth_events
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import ROOM_VERSIONS

from .auth_room import ADMIN, CREATE_ID, CREATOR, MOD, OTHER, USER, VERSIONS, AuthRoom, since, until

every_version = pytest.mark.parametrize("version", VERSIONS)

PL = ("m.room.power_levels", "")
CREATE = ("m.room.create", "")
JOIN_RULES = ("m.room.join_rules", "")


def member(user: str) -> tuple[str, str]:
    return ("m.room.member", user)


# --- m.room.create ----------------------------------------------------------------------------------


def create(room: AuthRoom, *, prev_events: tuple[str, ...] = (), **fields: Any) -> Event:
    content = {"room_version": room.version.identifier, "creator": CREATOR, **fields.pop("content", {})}
    return room.event("m.room.create", CREATOR, content, "", prev_events=prev_events, **fields)


@every_version
def test_the_first_create_event_is_allowed(version: str) -> None:
    room = AuthRoom(version)
    room.state.clear()
    room.check(create(room))


@every_version
def test_a_second_create_event_is_refused(version: str) -> None:
    room = AuthRoom(version)
    with pytest.raises(AuthError, match=r"create: it has prev_events"):
        room.check(create(room, prev_events=("$before",)))


@pytest.mark.parametrize("version", until(11))
def test_a_room_id_of_another_domain_than_the_creators_is_refused(version: str) -> None:
    room = AuthRoom(version)
    with pytest.raises(AuthError, match=r"create: the room id"):
        room.check(create(room, room_id="!room:elsewhere"))


@every_version
@pytest.mark.parametrize("identifier", ["99", "", None, 1, [], "org.example.new"])
def test_an_unrecognised_room_version_is_refused(version: str, identifier: Any) -> None:
    room = AuthRoom(version)
    with pytest.raises(AuthError, match=r"create: the room version"):
        room.check(create(room, content={"room_version": identifier}))


@every_version
def test_a_create_event_needs_a_creator_until_version_10(version: str) -> None:
    room = AuthRoom(version)
    event = room.event("m.room.create", CREATOR, {"room_version": version}, "", prev_events=())
    if version in until(10):
        with pytest.raises(AuthError, match=r"create: there is no creator"):
            room.check(event)
    else:
        room.check(event)


@every_version
@pytest.mark.parametrize("additional", [None, "@a:b", {}, [5], ["nobody"], ["@a:b", "@a:b c"], [["@a:b"]]])
def test_additional_creators_must_be_user_ids_since_version_12(version: str, additional: Any) -> None:
    room = AuthRoom(version)
    event = create(room, content={"additional_creators": additional})
    if version in since(12):
        with pytest.raises(AuthError, match=r"create: additional_creators"):
            room.check(event)
    else:
        room.check(event)
    room.check(create(room, content={"additional_creators": [OTHER, "@Old ÄÖ:b"]}))
    room.check(create(room, content={"additional_creators": []}))


@every_version
def test_nothing_but_a_create_event_is_allowed_in_a_room_without_one(version: str) -> None:
    room = AuthRoom(version)
    del room.state[CREATE]
    room.refuses("create: there is no", "m.room.message", ADMIN)
    room.refuses("create: there is no", "m.room.member", USER, {"membership": "join"}, USER)


@pytest.mark.parametrize("version", since(12))
def test_the_room_id_must_be_that_of_the_create_event(version: str) -> None:
    room = AuthRoom(version)
    room.refuses("room id", "m.room.message", ADMIN, room_id="!" + "x" * 43)
    room.allows("m.room.message", ADMIN)


@every_version
def test_users_of_other_servers_are_refused_only_where_federation_is_off(version: str) -> None:
    room = AuthRoom(version)
    room.member(OTHER, "join")
    room.allows("m.room.message", OTHER)
    room.set_create(**{"m.federate": False})
    room.refuses("m.federate", "m.room.message", OTHER)
    room.refuses_member("m.federate", OTHER, OTHER, "join")
    room.allows("m.room.message", ADMIN)
    for not_false in (True, None, 0, "false"):
        room.set_create(**{"m.federate": not_false})
        room.allows("m.room.message", OTHER)


# --- auth events ------------------------------------------------------------------------------------


def auth_events_of(room: AuthRoom, event: Event) -> list[Event]:
    keys = auth_event_keys(room.version, event.type, event.sender, event.state_key, event.content)
    return [room.state[key] for key in keys if key in room.state]


@every_version
def test_the_selected_auth_events_are_accepted(version: str) -> None:
    room = AuthRoom(version)
    for event in (
        room.event("m.room.message", ADMIN),
        room.event("m.room.member", ADMIN, {"membership": "invite"}, USER),
    ):
        check_auth_events(room.version, event, auth_events_of(room, event))


@every_version
def test_two_auth_events_for_one_key_are_refused(version: str) -> None:
    room = AuthRoom(version)
    event = room.event("m.room.message", ADMIN)
    doubled = [*auth_events_of(room, event), room.levels()]
    with pytest.raises(AuthError, match=r"auth events: more than one"):
        check_auth_events(room.version, event, doubled)
    same = auth_events_of(room, event)
    with pytest.raises(AuthError, match=r"auth events: more than one"):
        check_auth_events(room.version, event, [*same, same[0]])


@every_version
@pytest.mark.parametrize(
    ("type", "state_key"),
    [("m.room.join_rules", ""), ("m.room.member", MOD), ("m.room.topic", ""), ("m.room.power_levels", "x"),
     ("m.room.message", None)],
)  # fmt: skip
def test_an_auth_event_that_does_not_belong_is_refused(
    version: str, type: str, state_key: str | None
) -> None:
    room = AuthRoom(version)
    event = room.event("m.room.message", ADMIN)
    foreign = room.event(type, ADMIN, {"membership": "join"}, state_key)
    with pytest.raises(AuthError, match=r"auth events: .* does not belong"):
        check_auth_events(room.version, event, [*auth_events_of(room, event), foreign])


@every_version
def test_a_rejected_auth_event_is_refused(version: str) -> None:
    room = AuthRoom(version)
    event = room.event("m.room.message", ADMIN)
    for auth_event in auth_events_of(room, event):
        with pytest.raises(AuthError, match=r"rejected"):
            check_auth_events(
                room.version, event, auth_events_of(room, event), rejected={auth_event.event_id}
            )


@pytest.mark.parametrize("version", since(12))
def test_a_room_whose_create_event_was_rejected_has_no_events(version: str) -> None:
    room = AuthRoom(version)
    event = room.event("m.room.message", ADMIN)
    with pytest.raises(AuthError, match=r"create event was rejected"):
        check_auth_events(room.version, event, auth_events_of(room, event), rejected={CREATE_ID})


@pytest.mark.parametrize("version", until(11))
def test_auth_events_without_a_create_event_are_refused(version: str) -> None:
    room = AuthRoom(version)
    event = room.event("m.room.message", ADMIN)
    without = [auth for auth in auth_events_of(room, event) if auth.type != "m.room.create"]
    with pytest.raises(AuthError, match=r"no m.room.create"):
        check_auth_events(room.version, event, without)


@pytest.mark.parametrize("version", since(12))
def test_a_create_event_among_the_auth_events_is_refused_since_version_12(version: str) -> None:
    room = AuthRoom(version)
    event = room.event("m.room.message", ADMIN)
    with pytest.raises(AuthError, match=r"does not belong"):
        check_auth_events(room.version, event, [*auth_events_of(room, event), room.state[CREATE]])


@every_version
def test_an_auth_event_of_another_room_is_refused(version: str) -> None:
    room = AuthRoom(version)
    event = room.event("m.room.message", ADMIN)
    room.put(room.event("m.room.power_levels", ADMIN, {"users": {ADMIN: 100}}, "", room_id="!other:a"))
    with pytest.raises(AuthError, match=r"another room"):
        check_auth_events(room.version, event, auth_events_of(room, event))


# --- selection --------------------------------------------------------------------------------------


@every_version
def test_auth_events_are_selected_as_the_specification_lists_them(version: str) -> None:
    room_version = ROOM_VERSIONS[version]
    base = {PL, member(USER)} | (set() if version in since(12) else {CREATE})

    def keys(type: str, state_key: str | None = None, **content: Any) -> set[tuple[str, str]]:
        selected = auth_event_keys(room_version, type, USER, state_key, content)
        assert len(selected) == len(set(selected))
        return set(selected)

    signed = {"signed": {"token": "t", "mxid": OTHER}}
    assert keys("m.room.create", "") == set()
    assert keys("m.room.message") == base
    assert keys("m.room.topic", "") == base
    assert keys("m.room.power_levels", "") == base
    for membership in ("join", "knock"):
        assert keys("m.room.member", USER, membership=membership) == base | {JOIN_RULES}
    assert keys("m.room.member", OTHER, membership="invite") == base | {JOIN_RULES, member(OTHER)}
    for other in ("leave", "ban", "strange", None):
        assert keys("m.room.member", OTHER, membership=other) == base | {member(OTHER)}
    invite = base | {JOIN_RULES, member(OTHER)}
    assert keys("m.room.member", OTHER, membership="invite", third_party_invite=signed) == invite | {
        ("m.room.third_party_invite", "t")
    }
    unreadable: list[Any] = [None, [], {}, {"signed": []}, {"signed": {}}, {"signed": {"token": 5}}]
    for broken in unreadable:
        assert keys("m.room.member", OTHER, membership="invite", third_party_invite=broken) == invite
    authorised = keys("m.room.member", USER, membership="join", join_authorised_via_users_server=ADMIN)
    assert authorised == base | {JOIN_RULES} | ({member(ADMIN)} if version in since(8) else set())
    own = keys("m.room.member", USER, membership="join", join_authorised_via_users_server=USER)
    assert own == base | {JOIN_RULES}
    leaving = keys("m.room.member", USER, membership="leave", join_authorised_via_users_server=ADMIN)
    assert leaving == base


# --- who may send -----------------------------------------------------------------------------------


@every_version
@pytest.mark.parametrize("membership", ["leave", "invite", "ban", "knock", None, 5])
def test_only_joined_users_send(version: str, membership: Any) -> None:
    room = AuthRoom(version)
    room.refuses("membership: the sender is not joined", "m.room.message", USER)
    room.member(USER, membership)
    room.refuses("membership: the sender is not joined", "m.room.message", USER)
    room.member(USER, "join")
    room.allows("m.room.message", USER)


@pytest.mark.parametrize("version", until(5))
def test_aliases_are_allowed_by_domain_until_version_5(version: str) -> None:
    room = AuthRoom(version)
    room.allows("m.room.aliases", OTHER, {"aliases": []}, "b")
    room.refuses("aliases", "m.room.aliases", OTHER, {"aliases": []}, "a")
    room.refuses("aliases", "m.room.aliases", OTHER, {"aliases": []}, "")
    room.refuses("aliases", "m.room.aliases", OTHER, {"aliases": []})


@pytest.mark.parametrize("version", since(6))
def test_aliases_are_ordinary_state_since_version_6(version: str) -> None:
    room = AuthRoom(version)
    room.refuses("membership", "m.room.aliases", OTHER, {"aliases": []}, "b")
    room.allows("m.room.aliases", ADMIN, {"aliases": []}, "b")


@every_version
def test_sending_needs_the_level_of_the_event_type(version: str) -> None:
    room = AuthRoom(version)
    for user in (USER, MOD):
        room.member(user, "join")
    room.allows("m.room.message", USER)
    room.allows("m.room.topic", MOD, {}, "")
    room.refuses("power: m.room.topic needs level 50, the sender has 0", "m.room.topic", USER, {}, "")
    room.levels(events={"m.room.topic": 0, "m.room.message": 51}, state_default=60)
    room.allows("m.room.topic", USER, {}, "")
    room.refuses("power", "m.room.message", MOD)
    room.refuses("power", "m.room.name", MOD, {}, "")
    room.levels(events_default=1)
    room.refuses("power", "m.room.message", USER)


@every_version
def test_a_state_key_that_is_a_user_id_belongs_to_that_user(version: str) -> None:
    room = AuthRoom(version)
    room.allows("org.example.status", ADMIN, {}, ADMIN)
    room.allows("org.example.status", ADMIN, {}, "not a user")
    room.refuses("state key", "org.example.status", ADMIN, {}, USER)
    room.refuses("state key", "org.example.status", ADMIN, {}, "@")


@every_version
def test_inviting_a_third_party_needs_the_invite_level_and_no_other(version: str) -> None:
    room = AuthRoom(version)
    room.member(USER, "join")
    room.allows("m.room.third_party_invite", USER, {}, "token")
    room.levels(events={"m.room.third_party_invite": 100}, state_default=100)
    room.allows("m.room.third_party_invite", USER, {}, "token")
    room.levels(invite=1)
    room.refuses("third-party invite: the sender may not", "m.room.third_party_invite", USER, {}, "token")


# --- redactions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", until(2))
def test_redactions_need_power_or_the_same_domain_until_version_2(version: str) -> None:
    room = AuthRoom(version)
    for user in (USER, MOD):
        room.member(user, "join")
    room.allows("m.room.redaction", MOD, {}, redacts="$x:b")
    room.allows("m.room.redaction", USER, {}, redacts="$x:a", event_id="$y:a")
    room.refuses("redaction", "m.room.redaction", USER, {}, redacts="$x:b", event_id="$y:a")
    room.refuses("redaction", "m.room.redaction", USER, {}, event_id="$y:a")
    room.levels(redact=51)
    room.refuses("redaction", "m.room.redaction", MOD, {}, redacts="$x:b", event_id="$y:a")


@pytest.mark.parametrize("version", since(3))
def test_redactions_are_ordinary_events_since_version_3(version: str) -> None:
    room = AuthRoom(version)
    room.member(USER, "join")
    room.levels(redact=100)
    room.allows("m.room.redaction", USER, {"redacts": "$x"}, redacts="$x")
    room.levels(events={"m.room.redaction": 1})
    room.refuses("power", "m.room.redaction", USER, {"redacts": "$x"}, redacts="$x")
