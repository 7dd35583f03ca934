"""Rooms grown at random from a seed: forks, conflicting acts, clocks that lie, rejected events.

Every server of the room is honest about the rules, but writes onto whatever part of the room it has seen,
so the graph forks and merges; now and then one writes what the state does not allow, and that is rejected.
"""

import random
from collections.abc import Sequence

from homeserver.protocol.event_auth import AuthError, auth_event_keys, check_auth
from homeserver.protocol.events import Event
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.state_resolution import resolve

from .auth_room import make_event
from .slow_resolution import State

USERS = ["@alice:a", "@bob:b", "@carol:c", "@dave:d"]
CREATE = "CREATE"

Act = tuple[str, str, str | None, JsonObject]


class RandomRoom:
    """`events` in an order in which they could have come; `before` and `after` are the states around each."""

    def __init__(self, version: str, seed: int, size: int) -> None:
        self.version = ROOM_VERSIONS[version]
        self.random = random.Random(f"{version}/{seed}")
        self.events: dict[str, Event] = {}
        self.before: dict[str, State] = {}
        self.after: dict[str, State] = {}
        self.rejected: set[str] = set()
        self.tips: set[str] = set()
        self.seed = seed
        self._grow(size)

    def name(self, n: int) -> str:
        # Ids whose order says nothing about when their events were made.
        return f"${self.random.randrange(36**4):04}-{n}" + ("" if self.version.event_ids_are_hashes else ":a")

    @property
    def create_id(self) -> str:
        return f"${CREATE}" if self.version.event_ids_are_hashes else f"${CREATE}:a"

    def _grow(self, size: int) -> None:
        alice = USERS[0]
        content: JsonObject = {"creator": alice, "room_version": self.version.identifier}
        self._add(self.create_id, ("m.room.create", alice, "", content), ())
        self._write(("m.room.member", alice, alice, {"membership": "join"}), tuple(self.tips))
        users = {} if self.version.privileged_creators else {alice: 100}
        self._write(("m.room.power_levels", alice, "", {"users": users}), tuple(self.tips))
        self._write(("m.room.join_rules", alice, "", {"join_rule": "public"}), tuple(self.tips))
        for user in USERS[1:]:
            self._write(("m.room.member", user, user, {"membership": "join"}), tuple(self.tips))
        while len(self.events) < size:
            self._write(self._act(), self._prev_events())

    def _prev_events(self) -> tuple[str, ...]:
        usable = [event_id for event_id in self.events if event_id not in self.rejected][-12:]
        if self.random.random() < 0.35:
            return tuple(sorted(self.tips))[:5]
        return tuple(self.random.sample(usable, self.random.choice([1, 1, 2])))

    def _act(self) -> Act:
        pick = self.random.choice
        sender, target = pick(USERS), pick(USERS)
        kind = pick(
            ["topic", "name", "topic", "levels", "levels", "rule", "ban", "kick", "join", "join", "invite"]
        )
        if kind in ("topic", "name"):
            return f"m.room.{kind}", sender, "", {kind: self.random.randrange(99)}
        if kind == "levels":
            users = {user: pick([0, 50, 50, 100]) for user in self.random.sample(USERS[1:], 2)}
            if not self.version.privileged_creators:
                users[USERS[0]] = 100
            return "m.room.power_levels", sender, "", {"users": users, "kick": pick([0, 50])}
        if kind == "rule":
            return "m.room.join_rules", sender, "", {"join_rule": pick(["public", "invite"])}
        if kind == "join":
            return "m.room.member", sender, sender, {"membership": pick(["join", "join", "leave"])}
        membership = {"ban": "ban", "kick": "leave", "invite": "invite"}[kind]
        return "m.room.member", sender, target, {"membership": membership}

    def _write(self, act: Act, prev_events: tuple[str, ...]) -> None:
        allowed = self._add(self.name(len(self.events)), act, prev_events, keep=self.random.random() < 0.1)
        if allowed:
            self.tips -= set(prev_events)

    def _add(self, event_id: str, act: Act, prev_events: tuple[str, ...], *, keep: bool = False) -> bool:
        event_type, sender, state_key, content = act
        before = self.state_before(prev_events)
        keys = auth_event_keys(self.version, event_type, sender, state_key, content)
        event = make_event(
            self.version, event_id, event_type, sender, state_key, content,
            room_id=f"!{CREATE}" if self.version.room_id_is_create_hash else "!room:a",
            prev_events=prev_events,
            auth_events=[before[key] for key in keys if key in before],
            origin_server_ts=self.random.randrange(8),
            depth=1 + max((self.events[p].depth for p in prev_events), default=0),
        )  # fmt: skip
        allowed = is_allowed(event, before, self.events)
        if not allowed and not keep:
            return False
        self.events[event_id] = event
        self.before[event_id] = before
        self.after[event_id] = before if not allowed else {**before, event.state_tuple: event_id}
        if allowed:
            self.tips.add(event_id)
        else:
            self.rejected.add(event_id)
        return allowed

    def state_before(self, prev_events: Sequence[str]) -> State:
        states = [self.after[event_id] for event_id in prev_events]
        return resolve(self.version, states, self.events, rejected=self.rejected)


def is_allowed(event: Event, state: State, events: dict[str, Event]) -> bool:
    try:
        check_auth(event.version, event, lambda t, k: events.get(state.get((t, k), "")))
    except AuthError:
        return False
    return True


def replay(room: RandomRoom, order: Sequence[str], shuffle: random.Random) -> State:
    """The state of the room on a server to which its events come in this order.

    An event is held back until its prev_events are there, as a server does; what is known of the room is
    only what has come.
    """
    events: dict[str, Event] = {}
    after: dict[str, State] = {}
    rejected: set[str] = set()
    waiting = list(order)
    while waiting:
        still_waiting = []
        for event_id in waiting:
            event = room.events[event_id]
            if not all(prev in after for prev in event.prev_events):
                still_waiting.append(event_id)
                continue
            states = [after[prev] for prev in event.prev_events]
            shuffle.shuffle(states)
            state = resolve(room.version, states, events, rejected=rejected)
            events[event_id] = event
            if is_allowed(event, state, events):
                after[event_id] = {**state, event.state_tuple: event_id}
            else:
                after[event_id] = state
                rejected.add(event_id)
        waiting = still_waiting
    tips = [after[tip] for tip in room.tips]
    shuffle.shuffle(tips)
    return resolve(room.version, tips, events, rejected=rejected)
