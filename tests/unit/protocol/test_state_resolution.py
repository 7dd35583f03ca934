"""State resolution on small graphs, each a story with the state that every server must come to
(HARDENING 1).

`graphs/*.json`: events with short names and their auth events, the states to be resolved, and the
resolved state for each room version that the story is told of. The create event is put among the auth
events where the version wants it there, and creators are left out of `users` where they may not stand.
"""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.protocol.state_resolution import resolve

from .auth_room import make_event
from .slow_resolution import State, resolve_slowly

GRAPHS = sorted((Path(__file__).parent / "graphs").glob("*.json"))


class Graph:
    """One story told in one room version."""

    def __init__(self, path: Path, version: str) -> None:
        data = json.loads(path.read_text())
        self.version = ROOM_VERSIONS[version]
        self.events: dict[str, Event] = {}
        for row in data["events"]:
            event = self._event(self.version, row)
            self.events[event.event_id] = event
        self.states = [self._state(names) for names in data["states"].values()]
        self.resolved = self._state(data["resolved"][version])
        self.rejected = frozenset(map(self._id, data.get("rejected", [])))

    def _id(self, name: str) -> str:
        return f"${name}" if self.version.event_ids_are_hashes else f"${name}:a"

    def _event(self, version: RoomVersion, row: dict[str, Any]) -> Event:
        content = dict(row["content"])
        auth = list(row["auth"])
        key = row["key"]
        if row["type"] == "m.room.member":
            key = f"@{key}:a"
        if row["type"] == "m.room.create":
            content["creator"] = f"@{row['sender']}:a"
        elif not version.room_id_is_create_hash:
            auth.insert(0, "CREATE")
        if "users" in content:
            content["users"] = {
                f"@{user}:a": level
                for user, level in content["users"].items()
                if not (version.privileged_creators and user == "alice")
            }
        return make_event(
            version,
            self._id(row["id"]),
            row["type"],
            f"@{row['sender']}:a",
            key,
            content,
            room_id="!CREATE" if version.room_id_is_create_hash else "!room:a",
            prev_events=() if row["type"] == "m.room.create" else ("$before",),
            auth_events=[self._id(name) for name in auth],
            origin_server_ts=row["ts"],
            depth=row.get("depth", 1),
        )

    def _state(self, names: list[str]) -> State:
        events = [self.events[self._id(name)] for name in names]
        return {event.state_tuple: event.event_id for event in events}


STORIES = [
    pytest.param(path, version, id=f"{path.stem}-v{version}")
    for path in GRAPHS
    for version in json.loads(path.read_text())["resolved"]
]


@pytest.mark.parametrize(("path", "version"), STORIES)
def test_every_server_comes_to_the_state_of_the_story(path: Path, version: str) -> None:
    graph = Graph(path, version)
    for states in permutations(graph.states):
        assert resolve(graph.version, states, graph.events, rejected=graph.rejected) == graph.resolved


@pytest.mark.parametrize(("path", "version"), STORIES)
def test_the_slow_way_comes_to_the_same_state(path: Path, version: str) -> None:
    graph = Graph(path, version)
    assert resolve_slowly(graph.version, graph.states, graph.events, graph.rejected) == graph.resolved


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_states_that_agree_resolve_to_themselves_without_looking_at_events(version: str) -> None:
    state = {("m.room.topic", ""): "$t", ("m.room.member", "@a:b"): "$m"}
    for states in ([state], [state, dict(state)], [state] * 3):
        assert resolve(ROOM_VERSIONS[version], states, {}) == state
    assert resolve(ROOM_VERSIONS[version], [], {}) == {}


def graph(name: str, version: str) -> Graph:
    return Graph(Path(__file__).parent / "graphs" / f"{name}.json", version)


@pytest.mark.parametrize("version", ["2", "11", "12"])
def test_resolving_again_with_one_of_the_states_changes_nothing(version: str) -> None:
    story = graph("higher-power-goes-first", version)
    once = resolve(story.version, story.states, story.events)
    assert resolve(story.version, [once, *story.states], story.events) == once


def test_events_may_come_from_a_function_and_each_is_asked_for_once() -> None:
    story = graph("msc4297-problem-b", "12")
    asked: list[str] = []

    def fetch(event_id: str) -> Event | None:
        asked.append(event_id)
        return story.events.get(event_id)

    assert resolve(story.version, story.states, fetch) == story.resolved
    assert len(asked) == len(set(asked))


def test_rejected_auth_events_are_not_used_and_would_have_mattered() -> None:
    story = graph("rejected-events-authorise-nothing", "12")
    topic = ("m.room.topic", "")
    assert resolve(story.version, story.states, story.events, rejected=story.rejected)[topic] == "$T0"
    assert resolve(story.version, story.states, story.events)[topic] == "$T-CAROL"


@pytest.mark.parametrize("version", ["1", "2", "11", "12"])
def test_conflicting_events_that_are_not_there_take_no_part(version: str) -> None:
    story = graph("joins-on-both-sides", version)
    key = ("m.room.topic", "")
    states = [{**story.states[0], key: "$gone"}, {**story.states[1], key: "$gone too"}]
    assert resolve(story.version, states, story.events) == story.resolved


def test_a_message_among_the_auth_events_of_a_hostile_event_is_passed_over() -> None:
    story = graph("later-topic-wins", "12")
    message = make_event(story.version, "$MSG", "m.room.message", "@bob:a", None, {}, room_id="!CREATE")
    rank = make_event(
        story.version, "$T-EVIL", "m.room.topic", "@bob:a", "", {}, room_id="!CREATE",
        auth_events=["$MSG", "$BOB", "$PL0"], origin_server_ts=99,
    )  # fmt: skip
    events = {**story.events, "$MSG": message, "$T-EVIL": rank}
    states = [story.states[0], {**story.states[1], ("m.room.topic", ""): "$T-EVIL"}]
    assert resolve(story.version, states, events)[("m.room.topic", "")] == "$T-EVIL"
