"""What a word is, for what is filed and for what is looked for alike.

A word is a run of letters, marks and digits. Case, accents and other forms of the same letter make no
difference. Scripts that put no spaces between words are cut into single letters and pairs of them, so
that any two letters in a row are found; their words are looked for by their pairs.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from unicodedata import category, normalize

MAX_WORD = 64
MAX_WORDS = 2_000
"""Of one text; the first ones count."""
MAX_WANTED = 30
MAX_TERM = 1_000
MAX_HIGHLIGHTS = 100
MAX_LOOKED_THROUGH = 50_000
"""Letters of the texts of one page."""

_ASCII = str.maketrans({chr(code): " " for code in range(128) if not chr(code).isalnum()})
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x9FFF),  # Han
    (0xAC00, 0xD7AF),  # Hangul
    (0xF900, 0xFAFF),  # Han
    (0x20000, 0x3FFFF),  # Han
)


def fold(text: str) -> str:
    """The text without what makes no difference."""
    if text.isascii():
        return text.lower()
    parts = normalize("NFD", normalize("NFKC", text).casefold())
    return normalize("NFC", "".join(c for c in parts if not "\u0300" <= c <= "\u036f"))


def split(text: str) -> list[str]:
    """The words of a text."""
    if text.isascii():
        return text.translate(_ASCII).split()
    return "".join(c if c.isalnum() or category(c)[0] == "M" else " " for c in text).split()


def filed_words(text: str) -> list[str]:
    """Under which words a text is filed; a word that comes again is there again."""
    words: list[str] = []
    for word in split(fold(text)):
        if word.isascii():
            words.append(word[:MAX_WORD])
        else:
            words += _pieces(word, filed=True)
        if len(words) >= MAX_WORDS:
            break
    return words[:MAX_WORDS]


def wanted_words(term: str) -> list[str]:
    """For which words to look; all of them have to be there."""
    pieces = (piece for word in _words_of(term) for piece in _pieces(word, filed=False))
    return list(dict.fromkeys(pieces))[:MAX_WANTED]


def highlights(term: str, texts: Iterable[str]) -> list[str]:
    """What clients are to mark in texts that were found: the words of the term, in all forms that are there.

    Clients look for these very letters, but for case.
    """
    words = _words_of(term)
    forms = dict.fromkeys((*split(term[:MAX_TERM].lower())[:MAX_WANTED], *words))
    wanted = set(words)
    left = MAX_LOOKED_THROUGH
    for text in texts:
        if text.isascii():
            continue  # There is one form of a word without accents.
        looked = text[:left]
        left -= len(looked)
        forms |= dict.fromkeys(word for word in split(looked.lower()) if fold(word) in wanted)
    return list(forms)[:MAX_HIGHLIGHTS]


def _words_of(term: str) -> list[str]:
    return list(dict.fromkeys(split(fold(term[:MAX_TERM]))))[:MAX_WANTED]


def _pieces(word: str, *, filed: bool) -> Iterator[str]:
    for unspaced, letters in groupby(word, _is_unspaced):
        run = "".join(letters)
        if not unspaced:
            yield run[:MAX_WORD]
            continue
        if filed or len(run) == 1:
            yield from run
        yield from map("".join, pairwise(run))


def _is_unspaced(letter: str) -> bool:
    code = ord(letter)
    return any(first <= code <= last for first, last in _UNSPACED)
