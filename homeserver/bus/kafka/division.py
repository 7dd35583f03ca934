"""How shards are divided between members: evenly, and with as few of them moving as can be. Pure."""

from collections.abc import Collection, Mapping, Sequence


def divide(
    families: Sequence[Collection[int]], claims: Mapping[str, Collection[int]]
) -> dict[str, list[int]]:
    """The shards of each member, given what each one has now; `claims` has all members, the surest first.

    Each family is spread evenly by itself: the members' shares of it differ by one at most.
    """
    owned: dict[str, list[int]] = {member: [] for member in claims}
    if not claims:
        return owned
    for family in families:
        kept, free = _kept(family, claims)
        low, extra = divmod(len(family), len(claims))
        # The larger shares go to whoever has least so far, then to whoever has more of the family now.
        order = sorted(kept, key=lambda member: (len(owned[member]), -len(kept[member]), member))
        shares = {member: low + (i < extra) for i, member in enumerate(order)}
        for member, share in shares.items():
            free += kept[member][share:]
            kept[member] = kept[member][:share]
        free.sort(reverse=True)
        for member, share in shares.items():
            while len(kept[member]) < share:
                kept[member].append(free.pop())
            owned[member] += sorted(kept[member])
    return owned


def _kept(
    family: Collection[int], claims: Mapping[str, Collection[int]]
) -> tuple[dict[str, list[int]], list[int]]:
    """(which shards of a family each member has, those that nobody has); of two claims the first counts."""
    left = set(family)
    kept = {}
    for member, claimed in claims.items():
        kept[member] = sorted(left.intersection(claimed))
        left.difference_update(claimed)
    return kept, sorted(left)
