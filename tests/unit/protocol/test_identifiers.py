"""Identifier grammar: what is valid, what is not, and how long it may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.identifiers import (
    InvalidIdentifier,
    check_event_id,
    check_new_localpart,
    check_opaque_id,
    check_room_alias,
    check_room_id,
    check_server_name,
    check_user_id,
    localpart_of,
    server_name_of,
)

SERVER_NAMES = [
    "matrix.org",
    "matrix.org:8888",
    "1.2.3.4",
    "1.2.3.4:1234",
    "255.255.255.255",
    "[1234:5678::abcd]",
    "[1234:5678::abcd]:5678",
    "localhost",
    "MATRIX.org",
    "a-b.c",
    "[::ffff:1.2.3.4]",
    "x" * 255,
    "a:0",
    "a:65535",
]
NO_SERVER_NAMES = [
    "",
    ":",
    ":80",
    "a:",
    "a:b",
    "a:123456",
    "a:65536",
    "a:-1",
    "a:1:2",
    "a b",
    "a_b",
    "a/b",
    "a@b",
    "bücher.example",
    "a\n",
    "a\0",
    "256.1.1.1",
    "1.2.3.999:80",
    "[]",
    "[::1",
    "::1",
    "[::1]x",
    "[::1]80",
    "[12345::]",
    "[1::2::3]",
    "[fe80::1%eth0]",
    "[" + "0" * 46 + "]",
    "x" * 256,
    "١.2.3.4",
    "a:８０",
]


@pytest.mark.parametrize("name", SERVER_NAMES)
def test_server_name_of_the_grammar_is_valid(name: str) -> None:
    assert check_server_name(name) == name


@pytest.mark.parametrize("name", NO_SERVER_NAMES)
def test_server_name_outside_the_grammar_is_refused(name: str) -> None:
    with pytest.raises(InvalidIdentifier):
        check_server_name(name)


@pytest.mark.parametrize("name", SERVER_NAMES[:-3])
def test_identifiers_may_be_of_every_server(name: str) -> None:
    check_user_id(f"@a:{name}", historical=False)
    check_room_id(f"!a:{name}")
    check_room_alias(f"#a:{name}")
    check_event_id(f"$a:{name}")


@pytest.mark.parametrize("localpart", ["alice", "a.b_c=d-e/f+0", "0"])
def test_new_localpart_of_the_grammar_is_valid(localpart: str) -> None:
    assert check_new_localpart(localpart) == localpart
    assert check_user_id(f"@{localpart}:a", historical=False) == f"@{localpart}:a"


@pytest.mark.parametrize("localpart", ["", "Alice", "ä", "a b", "a:b", "a@b", "a\n", "a*", "a!b", "\0"])
def test_new_localpart_outside_the_grammar_is_refused(localpart: str) -> None:
    with pytest.raises(InvalidIdentifier):
        check_new_localpart(localpart)
    with pytest.raises(InvalidIdentifier):
        check_user_id(f"@{localpart}:a", historical=False)


@pytest.mark.parametrize("user_id", ["@Alice:a", "@ä b\n:a", "@:a", "@\x01*?:[::1]:80", "@😀:a"])
def test_historical_user_ids_are_accepted(user_id: str) -> None:
    assert check_user_id(user_id) == user_id


@pytest.mark.parametrize(
    "user_id",
    ["", "@", "@alice", "alice:a", "@alice:", "@alice:a b", "@a\0:a", "@\ud800:a", "#alice:a", "@a:b:c"],
)
def test_what_is_no_user_id_is_refused(user_id: str) -> None:
    with pytest.raises(InvalidIdentifier):
        check_user_id(user_id)


def test_length_is_counted_in_bytes_of_the_whole_identifier() -> None:
    assert check_user_id("@" + "a" * 252 + ":b")
    with pytest.raises(InvalidIdentifier, match="255"):
        check_user_id("@" + "a" * 253 + ":b")
    assert check_room_alias("#" + "ä" * 126 + ":b")
    with pytest.raises(InvalidIdentifier, match="255"):
        check_room_alias("#" + "ä" * 127 + ":b")
    assert check_event_id("$" + "a" * 254)
    with pytest.raises(InvalidIdentifier):
        check_event_id("$" + "a" * 255)


@pytest.mark.parametrize("room_id", ["!abc:example.org", "!ä!:a:8448", "!" + "A-_z0" * 8 + "123"])
def test_room_ids_with_and_without_domain_are_valid(room_id: str) -> None:
    assert check_room_id(room_id) == room_id


@pytest.mark.parametrize("room_id", ["", "!", "abc:a", "#abc:a", "!a b", "!abc:", "!a\0:a", "!ä"])
def test_what_is_no_room_id_is_refused(room_id: str) -> None:
    with pytest.raises(InvalidIdentifier):
        check_room_id(room_id)


@pytest.mark.parametrize(
    "event_id", ["$abc:example.org", "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk", "$a-_"]
)
def test_event_ids_of_all_formats_are_valid(event_id: str) -> None:
    assert check_event_id(event_id) == event_id


@pytest.mark.parametrize("event_id", ["", "$", "abc", "!abc:a", "$a b", "$.b", "$abc:", "$ä"])
def test_what_is_no_event_id_is_refused(event_id: str) -> None:
    with pytest.raises(InvalidIdentifier):
        check_event_id(event_id)


@pytest.mark.parametrize("alias", ["#room:example.org", "#räum #1:a"])
def test_room_aliases_have_any_name(alias: str) -> None:
    assert check_room_alias(alias) == alias


@pytest.mark.parametrize("alias", ["", "#", "#:a", "room:a", "#room", "#ro\0om:a", "#\udc00:a"])
def test_what_is_no_room_alias_is_refused(alias: str) -> None:
    with pytest.raises(InvalidIdentifier):
        check_room_alias(alias)


@pytest.mark.parametrize("identifier", ["a", "A.b_c~d-0", "x" * 255])
def test_opaque_ids_of_the_grammar_are_valid(identifier: str) -> None:
    assert check_opaque_id(identifier) == identifier


@pytest.mark.parametrize("identifier", ["", "a b", "a/b", "a:b", "ä", "x" * 256, "a\n"])
def test_opaque_ids_outside_the_grammar_are_refused(identifier: str) -> None:
    with pytest.raises(InvalidIdentifier):
        check_opaque_id(identifier)


def test_the_domain_is_all_after_the_first_colon() -> None:
    assert server_name_of("@alice:example.org:8448") == "example.org:8448"
    assert server_name_of("!r:[::1]:80") == "[::1]:80"
    assert localpart_of("@alice:example.org:8448") == "alice"
    for nobody in ("alice", "@alice:", ""):
        with pytest.raises(InvalidIdentifier):
            server_name_of(nobody)
    for nobody in ("alice:a", "@alice", "#alice:a", ""):
        with pytest.raises(InvalidIdentifier):
            localpart_of(nobody)


@given(st.text(max_size=300))
def test_any_string_is_an_identifier_or_refused_as_one(text: str) -> None:
    for check in (
        check_user_id,
        check_room_id,
        check_event_id,
        check_room_alias,
        check_server_name,
        check_opaque_id,
    ):
        try:
            assert len(check(text).encode()) <= 255
        except InvalidIdentifier:
            continue
