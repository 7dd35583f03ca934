"""History visibility (HARDENING 35): the whole table of the rule, then stories of rooms, event by event."""

from itertools import product

import pytest

from homeserver.protocol.visibility import (
    HistoryVisibility,
    View,
    may_see,
    parse_visibility,
    strongest_membership,
)

MEMBERSHIPS = ["join", "invite", "knock", "leave", "ban"]
JOINED_LATER = [False, True]


def seen_by_the_prose(visibility: str, membership: str, joins_later: bool) -> bool:
    """The options as the specification describes them to people, apart from the numbered steps."""
    return {
        "world_readable": True,
        "shared": membership == "join" or joins_later,
        "invited": membership in ("join", "invite"),
        "joined": membership == "join",
    }[visibility]


@pytest.mark.parametrize(
    ("visibility", "membership", "joins_later"), list(product(HistoryVisibility, MEMBERSHIPS, JOINED_LATER))
)
def test_an_event_is_seen_by_the_setting_and_membership_at_it(
    visibility: HistoryVisibility, membership: str, joins_later: bool
) -> None:
    view = View(visibility, membership)
    assert may_see(view, view, joins_later=joins_later) is seen_by_the_prose(
        visibility, membership, joins_later
    )


@pytest.mark.parametrize(
    ("before", "after", "membership", "joins_later"),
    list(product(HistoryVisibility, HistoryVisibility, MEMBERSHIPS, JOINED_LATER)),
)
def test_a_change_of_the_setting_is_seen_if_the_old_or_the_new_one_lets_it(
    before: HistoryVisibility, after: HistoryVisibility, membership: str, joins_later: bool
) -> None:
    assert may_see(View(before, membership), View(after, membership), joins_later=joins_later) is (
        seen_by_the_prose(before, membership, joins_later)
        or seen_by_the_prose(after, membership, joins_later)
    )


@pytest.mark.parametrize(
    ("visibility", "before", "after", "joins_later"),
    list(product(HistoryVisibility, MEMBERSHIPS, MEMBERSHIPS, JOINED_LATER)),
)
def test_ones_own_membership_event_is_seen_if_the_old_or_the_new_membership_lets_it(
    visibility: HistoryVisibility, before: str, after: str, joins_later: bool
) -> None:
    assert may_see(View(visibility, before), View(visibility, after), joins_later=joins_later) is (
        seen_by_the_prose(visibility, before, joins_later)
        or seen_by_the_prose(visibility, after, joins_later)
    )


@pytest.mark.parametrize("visibility", HistoryVisibility)
@pytest.mark.parametrize("other", MEMBERSHIPS)
def test_own_joins_and_ends_of_joins_are_always_seen(visibility: HistoryVisibility, other: str) -> None:
    assert may_see(View(visibility, other), View(visibility, "join"), joins_later=False)
    assert may_see(View(visibility, "join"), View(visibility, other), joins_later=False)


@pytest.mark.parametrize("value", [None, "", "SHARED", "public", 1, True, ["joined"], {"joined": 1}])
def test_a_setting_not_understood_is_shared(value: object) -> None:
    assert parse_visibility(value) is HistoryVisibility.SHARED


@pytest.mark.parametrize("visibility", HistoryVisibility)
def test_the_four_settings_are_understood(visibility: HistoryVisibility) -> None:
    assert parse_visibility(visibility.value) is visibility


def seen(story: str, *users: str) -> str:
    """Which messages of a story do these users see together, as one server does?

    A story is words in order: `=joined` sets the visibility, `ann:join` a membership, anything else is a
    message. The answer is the words seen.
    """
    words = story.split()
    joins = [n for n, word in enumerate(words) if word in [f"{user}:join" for user in users]]

    def view(past: list[str]) -> View:
        setting = next((word[1:] for word in reversed(past) if word.startswith("=")), None)
        memberships = [
            next((word.partition(":")[2] for word in reversed(past) if word.startswith(f"{user}:")), "leave")
            for user in users
        ]
        return View(parse_visibility(setting), strongest_membership(memberships))

    return " ".join(
        word
        for n, word in enumerate(words)
        if may_see(view(words[:n]), view(words[: n + 1]), joins_later=any(join > n for join in joins))
    )


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        # Never set: as shared, all of the past from the first join on.
        ("a b ann:join c", "a b ann:join c"),
        ("=shared a ann:invite b", ""),
        ("=shared a ann:invite b ann:join c", "=shared a ann:invite b ann:join c"),
        ("=shared a ann:join b ann:leave c d", "=shared a ann:join b ann:leave"),
        ("=shared a ann:join b ann:ban c", "=shared a ann:join b ann:ban"),
        ("=shared ann:join ann:leave a ann:join b", "=shared ann:join ann:leave a ann:join b"),
        ("=joined a ann:invite b ann:join c ann:leave d", "=joined ann:join c ann:leave"),
        ("=joined ann:join a ann:leave b ann:join c", "=joined ann:join a ann:leave ann:join c"),
        ("=invited a ann:invite b ann:join c ann:leave d", "=invited ann:invite b ann:join c ann:leave"),
        ("=invited a ann:invite b ann:leave c ann:join d", "=invited ann:invite b ann:leave ann:join d"),
        ("=invited a ann:knock b ann:invite c ann:join d", "=invited ann:invite c ann:join d"),
        ("=world_readable a b", "=world_readable a b"),
        ("=world_readable a ann:join b ann:leave c", "=world_readable a ann:join b ann:leave c"),
        # The setting at the event counts, not a later one.
        ("=joined a =shared b ann:join c", "=joined =shared b ann:join c"),
        ("=shared a =joined b ann:join c", "=shared a =joined ann:join c"),
        ("=world_readable a =joined b", "=world_readable a =joined"),
        ("=joined a =world_readable b", "=world_readable b"),
        ("=joined a =invited b", ""),
        ("=bogus a ann:join b", "=bogus a ann:join b"),
    ],
)
def test_what_a_user_sees_of_a_room(story: str, expected: str) -> None:
    assert seen(story, "ann") == expected


def test_left_user_sees_nothing_sent_after_the_leave() -> None:
    for visibility in ("shared", "invited", "joined"):
        assert "after" not in seen(f"={visibility} ann:join before ann:leave after after2", "ann")


def test_other_peoples_membership_changes_nothing() -> None:
    assert seen("=joined a bob:join b bob:leave c", "ann") == ""


def test_a_server_sees_what_one_of_its_users_sees() -> None:
    story = "=joined a ann:join b bob:join c ann:leave d bob:leave e"
    assert seen(story, "ann", "bob") == "=joined ann:join b bob:join c ann:leave d bob:leave"
    story = "=invited a ann:invite b bob:join c bob:leave d ann:leave e"
    assert seen(story, "ann", "bob") == "=invited ann:invite b bob:join c bob:leave d ann:leave"
    story = "=shared a ann:join b ann:leave c bob:join d bob:leave e"
    assert seen(story, "ann", "bob") == "=shared a ann:join b ann:leave c bob:join d bob:leave"


@pytest.mark.parametrize(
    ("visibility", "one", "two", "one_later", "two_later"),
    list(product(HistoryVisibility, MEMBERSHIPS, MEMBERSHIPS, JOINED_LATER, JOINED_LATER)),
)
def test_a_server_sees_an_event_exactly_if_one_of_its_users_does(
    visibility: HistoryVisibility, one: str, two: str, one_later: bool, two_later: bool
) -> None:
    first, second = View(visibility, one), View(visibility, two)
    server = View(visibility, strongest_membership([one, two]))
    assert may_see(server, server, joins_later=one_later or two_later) is (
        may_see(first, first, joins_later=one_later) or may_see(second, second, joins_later=two_later)
    )


def test_a_server_without_users_in_the_room_is_as_one_who_left() -> None:
    assert strongest_membership([]) == "leave"
    assert strongest_membership(["ban", "knock"]) == "leave"
