"""Words by which a user is found: of the display name, of the user id, and the user id itself.

Both what is filed and what is looked for goes through here, so that they meet. Other than in texts,
the beginning of a word is enough.
"""

from homeserver.search.words import MAX_WORD, fold, split

MAX_WORDS = 12
MAX_TERM = 256


def words_of(text: str) -> list[str]:
    """The words of a text, each once."""
    return list(dict.fromkeys(word[:MAX_WORD] for word in split(fold(text))))[:MAX_WORDS]


def words_of_user(user_id: str, display_name: str | None) -> list[str]:
    """All words under which a user is filed."""
    localpart = user_id[1:].partition(":")[0]
    whole = (fold(user_id)[:MAX_WORD], fold(localpart)[:MAX_WORD])
    return list(dict.fromkeys((*whole, *words_of(localpart), *words_of(display_name or ""))))


def wanted_words(search_term: str) -> list[str]:
    """What to look for: words, each of them perhaps the beginning of one; or a user id, or signs alone."""
    term = search_term.strip()[:MAX_TERM]
    if term.startswith("@"):
        return [fold(term)[:MAX_WORD]]
    return words_of(term) or [fold(term)[:MAX_WORD]]
