"""Hypothesis strategies for JSON values."""

from typing import Any

from hypothesis import strategies as st

MAX_INT = 2**53 - 1

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
canonical_scalars = st.none() | st.booleans() | st.integers(-MAX_INT, MAX_INT) | text


def nested(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists and objects of these scalars."""
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=12,
    )


canonical_values = nested(canonical_scalars)
"""Every value that canonical JSON knows."""

any_values = nested(
    canonical_scalars
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=5)
)
"""Every value that a JSON parser may hand over, lone surrogates included."""
