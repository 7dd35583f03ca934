"""Shards divided between members: evenly, each to one, and few of them moving."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from homeserver.bus.kafka.division import divide

NAMES = ["a", "b", "c", "d", "e"]
ROOMS = range(7)
USERS = range(100, 105)


@given(
    st.integers(0, 9),
    st.integers(0, 9),
    st.dictionaries(st.sampled_from(NAMES), st.lists(st.integers(0, 110)), min_size=1),
)
def test_whatever_is_claimed_each_shard_has_one_owner_and_all_have_alike(
    rooms: int, users: int, claims: dict[str, list[int]]
) -> None:
    families = (range(rooms), range(100, 100 + users))
    owned = divide(families, claims)
    assert sorted(chain(*owned.values())) == [*families[0], *families[1]]
    for family in families:
        sizes = [sum(shard in family for shard in shards) for shards in owned.values()]
        assert max(sizes) - min(sizes) <= 1
    assert owned.keys() == claims.keys()


@given(st.integers(0, 9), st.integers(0, 9), st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
def test_nothing_moves_while_the_members_stay(rooms: int, users: int, members: list[str]) -> None:
    families = (range(rooms), range(100, 100 + users))
    owned = divide(families, dict.fromkeys(members, ()))
    assert divide(families, owned) == owned


def test_a_new_member_is_given_its_share_and_nothing_else_moves() -> None:
    before = divide((ROOMS, USERS), {"a": (), "b": ()})
    after = divide((ROOMS, USERS), {**before, "c": ()})
    for member, shards in before.items():
        assert set(after[member]) < set(shards)
    assert len(after["c"]) in (3, 4)


def test_the_shards_of_a_dead_member_go_to_the_others_and_nothing_else_moves() -> None:
    before = divide((ROOMS, USERS), {"a": (), "b": (), "c": ()})
    del before["b"]
    after = divide((ROOMS, USERS), before)
    for member, shards in before.items():
        assert set(after[member]) > set(shards)


def test_of_two_claims_the_surer_one_counts() -> None:
    assert divide((range(2), ()), {"new": [0], "old": [0, 1]}) == {"new": [0], "old": [1]}


def test_single_shards_of_both_families_go_to_different_members() -> None:
    families = (range(1), range(100, 101))
    assert divide(families, {"a": (), "b": ()}) == {"a": [0], "b": [100]}
    assert divide(families, {"a": (0, 100), "b": ()}) == {"a": [0], "b": [100]}
