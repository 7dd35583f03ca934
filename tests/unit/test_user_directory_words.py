"""Words by which users are found."""

import pytest

from homeserver.consumers.user_directory_words import MAX_WORDS, wanted_words, words_of_user
from homeserver.search.words import MAX_WORD


def finds(term: str, user_id: str, display_name: str | None = None) -> bool:
    words = words_of_user(user_id, display_name)
    return all(any(word.startswith(want) for word in words) for want in wanted_words(term))


@pytest.mark.parametrize(
    "term",
    [
        "ali",
        "ALICE",
        "@alice-b.x:example.org",
        "@ali",
        "alice-b",
        "b smith",
        "smi ali",
        "Ｓｍｉｔｈ",
        "ÅSA",
        "o'br",
        "brien",
    ],
)
def test_beginnings_of_words_find_whatever_their_case_and_form(term: str) -> None:
    assert finds(term, "@alice-b.x:example.org", "Åsa Smith O'Brien")


@pytest.mark.parametrize("term", ["lice", "example", "@alicia", "alice jones", "☂"])
def test_the_middle_of_a_word_and_the_servers_name_find_nothing(term: str) -> None:
    assert not finds(term, "@alice-b.x:example.org", "Åsa Smith")


def test_signs_alone_are_looked_for_as_they_are() -> None:
    assert wanted_words(" -- ") == ["--"]
    assert wanted_words("   ") == [""]


def test_long_names_and_terms_are_cut() -> None:
    words = words_of_user("@a:x", " ".join(f"{n}" + "y" * 1000 for n in range(100)))
    assert len(words) <= MAX_WORDS + 3
    assert max(map(len, words)) == MAX_WORD
    assert len(wanted_words("z" * 1_000_000)[0]) == MAX_WORD
