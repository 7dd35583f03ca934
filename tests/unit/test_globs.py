"""Globs: equal to a slow matcher written from the definition, and cheap on patterns made to be dear."""

import time
from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.protocol.globs import WordText, compile_glob, compile_word_glob, fold

BODY_LENGTH = 64 * 1024


def matches_by_definition(pattern: str, text: str) -> bool:
    """Which beginnings of the text can the pattern read so far have matched?"""
    reached = {0}
    for symbol in pattern:
        if symbol == "*":
            reached = set(range(min(reached), len(text) + 1)) if reached else set()
        else:
            reached = {n + 1 for n in reached if n < len(text) and symbol in ("?", text[n])}
    return len(text) in reached


def found_by_definition(pattern: str, text: str) -> bool:
    """Does any part of the folded text between word edges match? No edge lies between two word characters."""
    pattern, text = fold(pattern), fold(text)

    def is_word(char: str) -> bool:
        return char.isascii() and (char.isalnum() or char == "_")

    edges = [
        n
        for n in range(len(text) + 1)
        if not all(map(is_word, (text + " ")[max(n - 1, 0) : n + 1])) or n == 0
    ]
    return any(
        matches_by_definition(pattern, text[start:end])
        for start, end in [*combinations(edges, 2), *((edge, edge) for edge in edges)]
    )


patterns = st.text("ab*?-_A é", max_size=8)
texts = st.text("abAB-_ é\n", max_size=14)


@given(patterns, texts)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_a_glob_matches_what_the_definition_says(pattern: str, text: str) -> None:
    assert compile_glob(pattern)(text) == matches_by_definition(pattern, text)


@given(patterns, texts)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_a_word_search_finds_what_the_definition_says(pattern: str, text: str) -> None:
    assert compile_word_glob(pattern)(WordText(text)) == found_by_definition(pattern, text)


@given(st.text(), st.text())
@settings(derandomize=True, deadline=None)
def test_folding_two_strings_apart_is_folding_them_together(left: str, right: str) -> None:
    assert fold(left) + fold(right) == fold(left + right)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("lunc?*", "Lunch plans", True),
        ("lunc?*", "LUNCH", True),
        ("lunc?*", " lunch", False),
        ("lunc?*", "lunc", False),
        ("*.evil.com", "a.evil.com", True),
        ("*.evil.com", "evil.com", False),
        ("", "", True),
        ("", "x", False),
        ("*", "", True),
        ("**", "any\nlines", True),
        ("a*a", "a", False),
        ("*ab*b*", "ab", False),
        ("*ab*b*", "abx", False),
        ("*ab*b*", "abb", True),
        ("ab*b*c", "abxc", False),
        ("a*b*bc", "axbc", False),
        ("[a-z]+.", "b", False),
        ("ΟΔΟΣ*", "οδοσήμανση", True),
    ],
)
def test_whole_strings_match_without_regard_to_case(pattern: str, text: str, expected: bool) -> None:
    assert compile_glob(pattern, ignore_case=True)(text) is expected


def test_case_counts_unless_it_is_ignored() -> None:
    assert not compile_glob("M.Room.*")("m.room.message")
    assert compile_glob("M.Room.*", ignore_case=True)("m.room.message")


@pytest.mark.parametrize(
    ("pattern", "body", "expected"),
    [
        ("ex*ple", "An example event.", True),
        ("ex*ple", "exple", True),
        ("ex*ple", "An exciting triple-whammy", True),
        ("ex*ple", "An exciting triplet", False),
        ("cake", "Piece of CAKE?", True),
        ("cake", "pancake", False),
        ("cake", "cakes", False),
        ("cake*", "cakes", True),
        ("*cake", "pancakes", False),
        ("c?ke", "have a c_ke", True),
        ("c?ke", "have a xcake", False),
        ("@room", "hello @room", True),
        ("caf", "café", True),
        ("foo bar", "some foo bar", True),
        ("foo bar", "some foo  bar", False),
        ("a.c", "abc", False),
        ("cake", "", False),
        ("*", "", True),
        ("a*a", "a", False),
        ("*ab*b*", "ab", False),
        ("*ab*b*", "ab b", True),
    ],
)
def test_words_are_found_between_word_edges(pattern: str, body: str, expected: bool) -> None:
    assert compile_word_glob(pattern)(WordText(body)) is expected


def test_a_phrase_is_taken_literally_and_an_empty_one_is_never_found() -> None:
    body = WordText("Hello Alice*!")
    assert body.contains("alice")
    assert body.contains("Alice*")
    assert not body.contains("A*e")
    assert not body.contains("Ali")
    assert not body.contains("")


HOSTILE: list[tuple[str, str]] = [
    ("*a" * (BODY_LENGTH // 2) + "*b", "a" * BODY_LENGTH),
    ("*?a" * (BODY_LENGTH // 3) + "*b", "a" * BODY_LENGTH),
    ("?" * 500 + "b", "a" * BODY_LENGTH),
    ("*" + "?a" * 250 + "b*", "a" * BODY_LENGTH),
    ("*" * 500 + "b", "a" * BODY_LENGTH),
    ("-aa" * 170 + "-a", "-aa" * (BODY_LENGTH // 3)),
    ("a" * (BODY_LENGTH // 2) + "b", "a" * BODY_LENGTH),
    ("a*" * 250 + "b", "a " * (BODY_LENGTH // 2)),
]


def whole(pattern: str, text: str) -> bool:
    return compile_glob(pattern, ignore_case=True)(text)


def in_words(pattern: str, text: str) -> bool:
    return compile_word_glob(pattern)(WordText(text))


@pytest.mark.parametrize("match", [whole, in_words])
@pytest.mark.parametrize(("pattern", "text"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_patterns_on_64_kib_take_bounded_time(
    match: Callable[[str, str], bool], pattern: str, text: str
) -> None:
    """HARDENING 16. Backtracking would take from minutes to for ever; a walk takes milliseconds."""
    start = time.process_time()
    assert not match(pattern, text)
    assert time.process_time() - start < 1.0


def test_time_grows_with_the_text_and_not_with_its_square() -> None:
    def cost(length: int) -> float:
        start = time.process_time()
        for _ in range(3):
            in_words("?a" * 50 + "b", "a" * length)
            in_words("*a" * 50 + "*b", "a " * (length // 2))
        return time.process_time() - start

    assert cost(8 * 16_384) < 8 * 4 * cost(16_384)
