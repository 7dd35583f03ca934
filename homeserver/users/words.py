"""Words by which a user is found: of the display name, of the user id, and the user id itself.

Both what is filed and what is looked for goes through here, so that they meet.
"""

from collections.abc import Iterator
from unicodedata import normalize

MAX_WORDS = 12
MAX_WORD = 64
MAX_TERM = 256


def words_of(text: str) -> list[str]:
    """The words of a text, folded so that case and form of letters do not matter."""
    return list(dict.fromkeys(word[:MAX_WORD] for word in _split(_folded(text))))[:MAX_WORDS]


def words_of_user(user_id: str, display_name: str | None) -> list[str]:
    """All words under which a user is filed."""
    localpart = user_id[1:].partition(":")[0]
    whole = (_folded(user_id)[:MAX_WORD], _folded(localpart)[:MAX_WORD])
    return list(dict.fromkeys((*whole, *words_of(localpart), *words_of(display_name or ""))))


def wanted_words(search_term: str) -> list[str]:
    """What to look for: words, each of them perhaps the beginning of one; or a user id, or signs alone."""
    term = search_term.strip()[:MAX_TERM]
    if term.startswith("@"):
        return [_folded(term)[:MAX_WORD]]
    return words_of(term) or [_folded(term)[:MAX_WORD]]


def _folded(text: str) -> str:
    return normalize("NFKC", text).casefold()


def _split(text: str) -> Iterator[str]:
    return iter("".join(c if c.isalnum() else " " for c in text).split())
