"""What a word is in texts that are searched."""

import pytest

from homeserver.search.words import (
    MAX_HIGHLIGHTS,
    MAX_WANTED,
    MAX_WORD,
    MAX_WORDS,
    filed_words,
    highlights,
    wanted_words,
)


def finds(term: str, text: str) -> bool:
    wanted = wanted_words(term)
    return bool(wanted) and set(wanted) <= set(filed_words(text))


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("martians", "Men and Martians!"),
        ("MEN, martians", "martians-and-men"),
        ("resume", "my résumé"),
        ("ÉTÉ", "l'été"),
        ("ﬁle", "a file"),
        ("ｗｅｆｔ", "Weft"),
        ("strasse", "Straße"),
        ("4 2", "2+2=4"),
        ("snake case", "snake_case"),
        ("日本", "私は日本語を話します"),
        ("語", "私は日本語を話します"),
        ("한국", "한국어"),
        ("สวัสดี", "สวัสดีครับ"),
        ("नमस्ते", "नमस्ते दुनिया"),
        ("weft日本", "Weft日本語"),
    ],
)
def test_forms_of_the_same_word_meet(term: str, text: str) -> None:
    assert finds(term, text)


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("mart", "martians"),
        ("martians", "martian"),
        ("日語", "日本語"),
        ("men women", "men"),
        ("", "anything"),
        ("!?", "!?"),
        ("नम", "नमस्ते"),
    ],
)
def test_parts_and_signs_find_nothing(term: str, text: str) -> None:
    assert not finds(term, text)


def test_a_word_that_comes_again_is_filed_again() -> None:
    assert filed_words("tea, Tea; TEA") == ["tea"] * 3
    assert wanted_words("tea Tea") == ["tea"]


def test_work_is_bounded() -> None:
    assert len(filed_words("ab " * 50_000)) == MAX_WORDS
    assert len(filed_words("日本" * 50_000)) == MAX_WORDS
    assert max(map(len, filed_words("x" * 60_000))) == MAX_WORD
    assert len(wanted_words(" ".join(map(str, range(10_000))))) <= MAX_WANTED
    assert len(highlights(" ".join(map(str, range(10_000))), [])) <= MAX_WANTED
    forms = ("e" + "\u0301" * n for n in range(30_000))
    assert len(highlights("é", forms)) == MAX_HIGHLIGHTS


@pytest.mark.parametrize(
    ("term", "text", "marked"),
    [
        ("Big WORDS", "big words, all", ["big", "words"]),
        ("resume", "my Résumé, not resumed", ["resume", "résumé"]),
        ("ÉTÉ", "l'été", ["été", "ete"]),
        ("日本", "私は日本語を話します", ["日本"]),
    ],
)
def test_words_are_marked_as_they_are_spelled(term: str, text: str, marked: list[str]) -> None:
    assert highlights(term, [text]) == marked
