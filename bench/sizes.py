"""How much is measured: three sets of sizes."""

import msgspec


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the scenarios. The load is the same for each server, but for loops that end by the clock."""

    rounds: int = 3
    seconds: float = 1.2  # the longest time of one timed loop
    max_ops: int = 5000  # and its most operations
    presence: str = "offline"  # set_presence of syncing clients

    send: tuple[int, ...] = (1, 10, 50)
    fanout: tuple[int, ...] = (50, 200)
    first_sync: tuple[int, ...] = (10, 50)
    polls: int = 1000
    hold_seconds: float = 10.0
    long_room: int = 500  # messages in the room that is paged through
    big_room: int = 500  # members
    big_state: int = 750  # other state events of a big room on another server
    joins: int = 20  # joins timed at each end of a room's growth
    fill: int = 1000  # plain messages sent before the timed start
    lengths: tuple[int, ...] = (1000, 10_000)  # events of a room at which costs are taken
    many_rooms: tuple[int, ...] = (10, 100)  # likewise rooms of a user
    fill_seconds: float = 300.0  # the longest that it may take to get from one such size to the next
    changes: int = 200  # membership changes whose bytes are counted
    known_rooms: int = 200  # rooms whose memory is counted
    across: int = 100  # messages, one at a time, to a reader at another replica
    costs: int = 2000  # messages whose CPU at each replica is counted
    federated: int = 90  # events that another server is to see: of more in one room Synapse leaves some out
    graph: int = 420  # events of another server, in each of some shapes
    away_seconds: float = 60.0  # that a replica, or the broker, does not run


QUICK = Sizes(
    rounds=1,
    seconds=0.4,
    fanout=(20, 60),
    first_sync=(5, 10),
    polls=60,
    hold_seconds=1.5,
    long_room=200,
    big_room=60,
    big_state=90,
    joins=10,
    fill=150,
    lengths=(200, 1000),
    many_rooms=(10, 50),
    fill_seconds=30.0,
    changes=40,
    across=30,
    costs=400,
    federated=60,
    graph=105,
    away_seconds=12.0,
)
DEFAULT = Sizes()
FULL = Sizes(
    rounds=5,
    seconds=3.0,
    max_ops=20_000,
    hold_seconds=20.0,
    long_room=5000,
    big_room=2000,
    big_state=5000,
    fill=10_000,
    lengths=(1000, 10_000, 100_000),
    many_rooms=(10, 100, 1000),
    changes=1000,
    known_rooms=1000,
)
