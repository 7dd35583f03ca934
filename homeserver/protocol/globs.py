"""Matrix globs: `*` is any run of characters, `?` exactly one (appendices, "Glob-style matching").

Patterns come from strangers, so the cost must not depend on how a pattern is built. Two engines do that:

* Without `?`, a pattern is a list of literal parts. Taking each part at its leftmost place is always right,
  so one walk over the text with `str.find` decides.
* With `?`, all ways to match are followed at once as the bits of one integer: a step per character of the
  text, each on an integer as wide as the pattern. The pattern's length must be bounded by the caller.

Neither backtracks and no regular expression is ever made from a pattern.

Push rules search a body for a pattern *between word edges* rather than match it whole (client-server,
"Push rules"). `WordText` prepares a body once; any number of `compile_word_glob` tests are then put to it.
"""

import re
from collections.abc import Callable
from typing import Final

_WORD: Final = re.compile("([A-Za-z0-9_]+)")
_WORD_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_EDGE: Final = "\0"


def fold(text: str) -> str:
    """`text` without differences of case; "case-insensitive" here means that folded strings are compared.

    Folding goes character by character: `fold(a) + fold(b) == fold(a + b)`. So the parts of a folded pattern
    can be found in a folded text, which plain lower-casing breaks for the Greek final sigma.
    """
    lowered = text.lower()
    return lowered if lowered.isascii() else lowered.replace("ς", "σ")


def compile_glob(pattern: str, *, ignore_case: bool = False) -> Callable[[str], bool]:
    """A test whether a whole string matches `pattern`."""
    if ignore_case:
        matches_folded = compile_glob(fold(pattern))
        return lambda text: matches_folded(fold(text))
    if "?" in pattern:
        return _Automaton(pattern).matches
    head, *rest = pattern.split("*")
    if not rest:
        return lambda text: text == head
    *between, tail = rest
    inner = tuple(part for part in between if part)
    shortest = len(head) + sum(map(len, inner)) + len(tail)

    def matches(text: str) -> bool:
        if len(text) < shortest or not text.startswith(head) or not text.endswith(tail):
            return False
        at, end = len(head), len(text) - len(tail)
        for part in inner:
            found = text.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True

    return matches


class WordText:
    """A text made ready for word searches, which ignore case.

    A word is a run of `[A-Za-z0-9_]`; its edges are where a match may start or end. A match that starts or
    ends with any other character is at an edge by that character.
    """

    __slots__ = ("folded", "marked")

    folded: Final[str]
    marked: Final[str]
    """The folded text with a NUL at both edges of each word: finding a word is then finding a string."""

    def __init__(self, text: str) -> None:
        self.folded = fold(text)
        self.marked = _mark(self.folded)

    def contains(self, phrase: str) -> bool:
        """Whether `phrase`, taken literally, occurs between word edges; an empty phrase never does."""
        return bool(phrase) and _mark(fold(phrase)) in self.marked


def compile_word_glob(pattern: str) -> Callable[[WordText], bool]:
    """A test whether some part of a text that starts and ends at word edges matches `pattern`."""
    folded = fold(pattern)
    if "?" in folded:
        found_in = _Automaton(folded).found_in
        return lambda text: found_in(text.folded)
    pieces = [_mark(piece) for piece in folded.split("*")]
    # Beside a star a word may go on, so there its edge is left open.
    pieces[:-1] = [piece.removesuffix(_EDGE) for piece in pieces[:-1]]
    pieces[1:] = [piece.removeprefix(_EDGE) for piece in pieces[1:]]
    parts = tuple(piece for piece in pieces if piece)

    def found(text: WordText) -> bool:
        marked, at = text.marked, 0
        for part in parts:
            start = marked.find(part, at)
            if start < 0:
                return False
            at = start + len(part)
        return True

    return found


def _mark(folded: str) -> str:
    # A real NUL gives way to the replacement character, which is no part of a word either.
    return _EDGE.join(_WORD.split(folded.replace(_EDGE, "\ufffd")))


class _Automaton:
    """All the ways a pattern can match a text, followed at once.

    Bit `n` of a state says: the first `n` symbols (characters and `?`, stars not counted) match a stretch of
    text that ends here. A star after `n` symbols keeps bit `n` alive.
    """

    __slots__ = ("_accepting", "_any", "_length", "_moves", "_stars")

    def __init__(self, pattern: str) -> None:
        length = stars = anything = 0
        moves: dict[str, int] = {}
        for symbol in pattern:
            bit = 1 << length
            if symbol == "*":
                stars |= bit
                continue
            if symbol == "?":
                anything |= bit
            else:
                moves[symbol] = moves.get(symbol, 0) | bit
            length += 1
        self._length = length
        self._accepting = 1 << length
        self._stars = stars
        self._any = anything
        self._moves = {symbol: bits | anything for symbol, bits in moves.items()}

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        if len(text) < self._length:
            return False
        moves, anything, stars = self._moves, self._any, self._stars
        state = 1
        for char in text:
            state = (state & moves.get(char, anything)) << 1 | state & stars
            if not state:
                return False
        return state & self._accepting != 0

    def found_in(self, text: str) -> bool:
        """Whether a part of the text between word edges matches."""
        if len(text) < self._length:
            return False
        moves, anything, stars, accepting = self._moves, self._any, self._stars, self._accepting
        state = 0
        in_word = False
        for char in text:
            is_word = char in _WORD_CHARS
            if not (in_word and is_word):
                if state & accepting:
                    return True
                state |= 1
            state = (state & moves.get(char, anything)) << 1 | state & stars
            in_word = is_word
        return state & accepting != 0
