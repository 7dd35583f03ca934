"""Server ACLs: the specification's steps, the ways round them that must not work, and their cost."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.protocol.globs import compile_glob
from homeserver.protocol.server_acl import compile_acl


def allows(content: object, server_name: str) -> bool:
    return compile_acl(content).allows(server_name)


@pytest.mark.parametrize(
    ("server_name", "expected"),
    [
        ("good.example", True),
        ("evil.com", False),
        ("a.evil.com", False),
        ("a.b.evil.com", False),
        ("notevil.com", True),
        ("evil.com.example", True),
        ("1.2.3.4", False),
        ("[::1]", False),
    ],
)
def test_the_example_of_the_specification(server_name: str, expected: bool) -> None:
    acl = {"allow_ip_literals": False, "allow": ["*"], "deny": ["*.evil.com", "evil.com"]}
    assert allows(acl, server_name) is expected


def test_deny_goes_before_allow_and_what_is_in_neither_is_denied() -> None:
    acl = compile_acl({"allow": ["*.org", "both.com"], "deny": ["bad.org", "both.com"]})
    assert acl.allows("good.org")
    assert not acl.allows("bad.org")
    assert not acl.allows("both.com")
    assert not acl.allows("elsewhere.net")


@pytest.mark.parametrize(
    "evasion",
    [
        "EVIL.com",
        "Sub.Evil.Com",
        "evil.com:8448",
        "evil.com:1",
        "EVIL.COM:1234",
        "evil.com.",
        "evil.com.:8448",
        "sub.evil.com.",
        "evil.com..",
        "XN--EVL-RMA.example",
        "xn--evl-rma.example",
        "evíl.example",
        "\u212aing.com",
        "evil.com:",
        "evil.com:123456",
        "evil.com:80:80",
        "evil.com ",
        "evil.com\n",
        "evil.com\0",
        "user@evil.com",
        "evil.com/",
        "",
        "ev1l.net",
        "server-7.cheap.host",
    ],
)
def test_no_spelling_dodges_the_deny_list(evasion: str) -> None:
    """HARDENING 15."""
    deny = ["Evil.com", "king.com", "*.EVIL.com", "xn--EVL-rma.example", "ev?l.net", "server-*.host"]
    assert not allows({"allow": ["*"], "deny": deny}, evasion)


def test_a_leading_star_matches_no_characters_too() -> None:
    acl = compile_acl({"allow": ["*"], "deny": ["*evil.com"]})
    assert not acl.allows("evil.com")
    assert not acl.allows("notevil.com")
    assert acl.allows("vil.com")


def test_a_trailing_dot_does_not_pass_an_allow_list() -> None:
    assert allows({"allow": ["good.com"]}, "good.com:8448")
    assert allows({"allow": ["Good.COM"]}, "gOOD.com")
    assert not allows({"allow": ["good.com"]}, "good.com.")


@pytest.mark.parametrize(
    "literal",
    [
        "1.2.3.4",
        "1.2.3.4:8448",
        "[::1]",
        "[::1]:8448",
        "[2001:DB8::A]",
        "[::ffff:1.2.3.4]",
        "1.2.3.4.",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0X7F000001",
        "0177.0.0.1",
        "1.2.3.999",
    ],
)
def test_ip_literals_are_denied_in_every_form_where_they_are_not_allowed(literal: str) -> None:
    assert not allows({"allow": ["*"], "allow_ip_literals": False}, literal)
    assert allows({"allow": ["*"], "allow_ip_literals": True}, literal)
    assert allows({"allow": ["*"]}, literal)


@pytest.mark.parametrize("name", ["a1.example.com", "1.2.3.4.example.com", "3com", "0xcafe.org", "localhost"])
def test_a_name_with_digits_is_no_ip_literal(name: str) -> None:
    assert allows({"allow": ["*"], "allow_ip_literals": False}, name)


def test_addresses_are_matched_with_their_brackets_and_without_the_port() -> None:
    acl = {"allow": ["*"], "deny": ["[2001:db8::*]", "10.*"]}
    assert not allows(acl, "[2001:DB8::7]:8448")
    assert not allows(acl, "10.1.2.3:8448")
    assert allows(acl, "[2001:db9::7]:8448")


@pytest.mark.parametrize(
    "content",
    [
        {},
        None,
        [],
        "x",
        {"deny": []},
        {"allow": "*"},
        {"allow": {"*": True}},
        {"allow": None},
        {"allow": [None, 1, ["*"]]},
    ],
)
def test_without_a_proper_allow_list_every_server_is_denied(content: object) -> None:
    assert not allows(content, "good.example")


@pytest.mark.parametrize("deny", [None, "evil.com", {"evil.com": 1}, 7, [None, 3, {"a": "b"}, ["evil.com"]]])
def test_a_malformed_deny_list_denies_nobody(deny: Any) -> None:
    assert allows({"allow": ["*"], "deny": deny}, "evil.com")


@pytest.mark.parametrize("value", [None, 0, "false", [], {}])
def test_ip_literals_are_allowed_unless_the_field_is_false(value: Any) -> None:
    assert allows({"allow": ["*"], "allow_ip_literals": value}, "1.2.3.4")


entries = st.lists(st.text("ab.*?", min_size=1, max_size=6), max_size=4)


@given(entries, entries, st.text("ab.", min_size=1, max_size=8))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_sorted_lists_decide_like_one_glob_after_the_other(
    allow: list[str], deny: list[str], name: str
) -> None:
    def any_matches(patterns: list[str], host: str) -> bool:
        return any(compile_glob(pattern)(host) for pattern in patterns)

    denied = any_matches(deny, name) or any_matches(deny, name.rstrip("."))
    assert allows({"allow": allow, "deny": deny}, name) == (not denied and any_matches(allow, name))


@pytest.mark.parametrize("shape", ["host{}.example.com", "*.host{}.example", "a*b*{}*c", "?{}??.example"])
def test_very_many_entries_are_compiled_and_asked_in_bounded_time(shape: str) -> None:
    """HARDENING 15: an event of 64 KiB holds 16,000 entries at most."""
    start = time.process_time()
    acl = compile_acl({"allow": ["*"], "deny": [shape.format(n) for n in range(20_000)]})
    assert time.process_time() - start < 5.0
    start = time.process_time()
    assert acl.allows("matrix." + "a" * 200 + ".org")
    assert time.process_time() - start < 0.5


def test_one_hostile_entry_costs_no_more_than_its_length() -> None:
    """HARDENING 16."""
    long = "*a" * 30_000 + "b"
    start = time.process_time()
    acl = compile_acl({"allow": ["*"], "deny": [long, "?" + long, long + "*"]})
    assert acl.allows("a" * 255)
    assert time.process_time() - start < 0.5
