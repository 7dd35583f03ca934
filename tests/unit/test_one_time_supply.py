"""What uploads add to a supply of one-time keys, against a list of all keys."""

import random

import pytest
from msgspec.structs import replace

from homeserver.e2ee.key_objects import MAX_ONE_TIME_KEYS, NamedKey
from homeserver.e2ee.one_time_supply import BATCH_BYTES, addition, batch_with
from homeserver.errors import MatrixError
from storage.records.keys import OneTimeSupply

NONE_YET = OneTimeSupply(user_id="@u:x", device_id="D", algorithm="signed", uploaded=0, claimed=0)


def key(number: int, *, size: int = 10, value: str = "") -> NamedKey:
    return NamedKey("signed", f"K{number}", f'"{value}{number:0{size}}"'.encode())


@pytest.mark.parametrize("seed", range(5))
def test_keys_are_claimed_once_each_in_the_order_in_which_they_came(seed: int) -> None:
    """Uploads of all sizes, old keys among them, and claims in between."""
    rng = random.Random(seed)
    supply, stored, uploaded, claimed = NONE_YET, {}, [], []
    for _ in range(1000):
        left = len(uploaded) - len(claimed)
        if rng.random() < 0.5 and left < MAX_ONE_TIME_KEYS:
            fresh = range(len(uploaded), len(uploaded) + rng.randint(0, min(MAX_ONE_TIME_KEYS - left, 60)))
            again = rng.sample(uploaded[-MAX_ONE_TIME_KEYS:], k=min(len(uploaded), rng.randint(0, 5)))
            keys = [*(key(n, size=rng.choice([10, 1000])) for n in fresh), *again]
            added = addition(supply, keys)
            assert (added is None) == (not fresh)
            if added is not None:
                assert not added.suspects
                supply = added.supply
                for ended in added.ended:
                    del stored[ended]
                stored |= {batch.batch: batch.keys for batch in added.batches}
                uploaded += keys[: len(fresh)]
        elif supply.claimed < supply.uploaded:
            batch, place = batch_with(supply, supply.claimed)
            supply = replace(supply, claimed=supply.claimed + 1)
            claimed.append(stored[batch][place])
    assert len(claimed) > 2 * MAX_ONE_TIME_KEYS
    assert claimed == [(key.key_id, key.json.decode()) for key in uploaded[: len(claimed)]]
    assert (supply.uploaded, supply.claimed) == (len(uploaded), len(claimed))
    assert set(stored) == {batch for batch, _ in supply.batches}


def test_large_keys_are_stored_a_few_together() -> None:
    added = addition(NONE_YET, [key(n, size=4000) for n in range(20)])
    assert added is not None
    assert [len(batch.keys) for batch in added.batches] == [5, 5, 5, 5]
    assert max(sum(len(json) for _, json in batch.keys) for batch in added.batches) < BATCH_BYTES + 4096


def test_another_key_under_the_name_of_an_unclaimed_one_is_a_suspect() -> None:
    first = addition(NONE_YET, [key(n) for n in range(3)])
    assert first is not None
    half = replace(first.supply, claimed=2)
    others = [key(n, value="other") for n in range(3)]
    added = addition(half, others)
    assert added is not None
    assert added.suspects == [(others[2], 2)]


def test_the_same_upload_tried_again_makes_the_same_batch() -> None:
    """A try that was refused leaves nothing behind that the next one does not use."""
    keys = [key(n) for n in range(3)]
    other = addition(NONE_YET, [key(9)])
    assert other is not None
    one, two = addition(NONE_YET, keys), addition(other.supply, keys)
    assert one is not None and two is not None
    assert one.batches == two.batches


def test_no_more_unclaimed_keys_than_the_limit() -> None:
    full = addition(NONE_YET, [key(n) for n in range(MAX_ONE_TIME_KEYS)])
    assert full is not None
    with pytest.raises(MatrixError):
        addition(full.supply, [key(MAX_ONE_TIME_KEYS)])
    assert addition(replace(full.supply, claimed=1), [key(MAX_ONE_TIME_KEYS)]) is not None
