"""Since-tokens come back as they went, of stores of every size."""

import pytest

from homeserver.errors import MatrixError
from homeserver.since_tokens import SyncToken, decode_sync_token


@pytest.mark.parametrize("shards", [1, 1024])
def test_token_of_billions_of_entries_is_read_again(shards: int) -> None:
    token = SyncToken(3_000_000_000, 2_000_000, tuple(range(4_000_000_000, 4_000_000_000 + shards)))
    assert decode_sync_token(token.encode("e"), "e", shards) == token


@pytest.mark.parametrize(
    "text",
    ["", "s1", "s1_e_0_0_", "s1_e_0_0_0.0", "s1_e_0_0_-1", "s1_e_0_0_٣", "s2_e_0_0_0", "s1_other_0_0_0"],
)
def test_token_of_another_store_or_of_nobody_is_refused(text: str) -> None:
    with pytest.raises(MatrixError) as refused:
        decode_sync_token(text, "e", 1)
    assert (refused.value.status, refused.value.errcode) == (400, "M_INVALID_PARAM")
