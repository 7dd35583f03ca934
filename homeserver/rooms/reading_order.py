"""The order in which people read a room: that of its events, which is not the order of their positions.

What came as it happened lies in the timeline, at its sequence number. What was fetched later belongs into a
*gap* of the timeline: gap g is the place just above position g, between what came before it and what came
after, and gap 0 is what was before the room's first event. The positions of what lies in a gap are below
zero, and each gap has a range of its own, which is filled downwards. So positions never move, and for all
that follows the timeline the past is no news.

A *boundary* says how far somebody has read: a number that orders the timeline and what is in its gaps.
"""

from collections.abc import Collection
from typing import NamedTuple

SPAN = 1 << 24
"""Positions of a gap. Those next to its upper and its lower end stay free: they stand for the ends."""

NEWEST = 1 << 60
"""A position that no entry has yet."""


def in_gap(gap: int, depth: int) -> int:
    """A position in a gap, so far below its upper end."""
    return -(gap * SPAN + depth)


def gap_of(position: int) -> int:
    """In which gap a position below zero is."""
    return -position // SPAN


def lower_end(gap: int) -> int:
    """The position that stands for the lower end of a gap: below all that is in it."""
    return in_gap(gap, SPAN - 1)


def is_between(position: int) -> bool:
    """Whether a position is in a gap between two parts of the timeline, and not before all of it."""
    return position <= in_gap(1, 0)


def above(position: int) -> int:
    """The boundary just above what is at a position, and below the gap there."""
    return position * SPAN if position >= 0 else (gap_of(position) + 1) * SPAN - -position % SPAN


def below(position: int) -> int:
    """The boundary just below what is at a position, and above the gap there."""
    return above(position) - 1


def top_of(gap: int) -> int:
    """The boundary above all that is in a gap, and below what follows it in the timeline."""
    return gap * SPAN + SPAN - 1


def bottom_of(gap: int) -> int:
    """The boundary below all that is in a gap, and above what comes before it in the timeline."""
    return gap * SPAN + 1


def backwards_from(position: int) -> int:
    """The boundary that somebody who reads backwards means by a token."""
    return top_of(position) if position >= 0 else above(position)


def token_position(boundary: int, *, backwards: bool) -> int:
    """The position that stands for a boundary in the token of somebody who reads in this direction."""
    at, within = divmod(boundary, SPAN)
    if within == (SPAN - 1 if backwards else 0):
        return at
    return in_gap(at, SPAN - within)


class Stretch(NamedTuple):
    """A part of a room in which reading order is the order of positions."""

    low: int
    high: int
    """The boundaries of it."""
    gap: int | None
    """What lies in which gap; None: what lies between two of them."""

    @property
    def after(self) -> int:
        """The position below its first one."""
        return self.low // SPAN if self.gap is None else token_position(self.low, backwards=False)

    @property
    def upto(self) -> int:
        """Its last position."""
        return self.high // SPAN if self.gap is None else token_position(self.high, backwards=False)


def next_stretch(gaps: Collection[int], boundary: int, stop: int, *, backwards: bool) -> Stretch | None:
    """What comes next for somebody who reads from one boundary to another. Gap 0 is one of the gaps."""
    return _next_back(gaps, boundary, stop) if backwards else _next_forth(gaps, boundary, stop)


def _next_back(gaps: Collection[int], boundary: int, stop: int) -> Stretch | None:
    if boundary <= max(stop, bottom_of(0)):
        return None
    at = boundary // SPAN
    gap = at if at in gaps and boundary > bottom_of(at) else None
    low = bottom_of(gap) if gap is not None else top_of(max(each for each in gaps if each < at))
    return Stretch(max(low, stop), boundary, gap)


def _next_forth(gaps: Collection[int], boundary: int, stop: int) -> Stretch | None:
    if boundary >= stop:
        return None
    at = boundary // SPAN
    gap = at if at in gaps and boundary < top_of(at) else None
    high = top_of(gap) if gap is not None else min((each * SPAN for each in gaps if each > at), default=stop)
    return Stretch(max(boundary, bottom_of(at)) if gap is not None else boundary, min(high, stop), gap)
