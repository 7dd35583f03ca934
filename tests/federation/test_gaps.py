"""What was said in a room between two stays of this server, got from those that stayed."""

import random
from typing import Any
from urllib.parse import quote

import pytest

import federation.backfill
import federation.missing_events
from homeserver.rooms.reading_order import above, below, in_gap, lower_end, next_stretch, token_position
from tests.client_api.conftest import Client
from tests.federation.rooms import members, state_of
from tests.federation.servers import Homeserver
from tests.federation.test_backfill import bodies, dora, ids, pages, without_news
from tests.federation.test_remote_rooms import join
from tests.waiting import until

__all__ = ["dora"]


async def leave(client: Client, room_id: str, user_id: str, *seen_by: Client) -> None:
    """Leave a room, and wait until others know."""
    await client.leave(room_id)
    for other in seen_by:

        async def has_left(other: Client = other) -> bool:
            return (await members(other, room_id))[user_id] == "leave"

        await until(has_left)


async def around(client: Client, room_id: str, event_id: str, limit: int = 4) -> Any:
    path = f"/rooms/{quote(room_id)}/context/{quote(event_id)}"
    return await client.get(path, query={"limit": limit})


async def read_forth(client: Client, room_id: str, limit: int) -> list[Any]:
    """All that a client reads from the beginning on."""
    found: list[Any] = []
    start = None
    while True:
        asked = {"dir": "f", "limit": limit, **({"from": start} if start else {})}
        page = await client.get(f"/rooms/{quote(room_id)}/messages", query=asked)
        found += page["chunk"]
        start = page.get("end")
        if start is None:
            return found


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_what_was_said_between_two_stays_is_read_in_its_place(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client, version: str
) -> None:
    room_id = await alice.create_room(preset="public_chat", room_version=version)
    await alice.send(room_id, "before")
    await join(dora, room_id, server)
    await dora.send(room_id, "first stay")
    await leave(dora, room_id, dora.user_id, alice)
    for n in range(15):
        await alice.send(room_id, f"between {n}")
        await alice.set_state(room_id, "m.room.topic", {"topic": f"topic {n}"})
    await dora.sync()
    await join(dora, room_id, server)
    await dora.send(room_id, "second stay")
    await until(lambda: _has(alice, room_id, "second stay"))
    await dora.sync()
    there = await pages(alice, room_id)
    for limit in (3, 7, 100):
        own = await pages(dora, room_id, limit=limit)
        assert ids(own) == ids(there)
        assert ids(await read_forth(dora, room_id, limit)) == ids(there)[::-1]
    await without_news(dora)
    assert await state_of(dora, room_id) == await state_of(alice, room_id)
    await second.restart()
    dora._base = second.base
    assert ids(await pages(dora, room_id, limit=10)) == ids(there)
    assert await state_of(dora, room_id) == await state_of(alice, room_id)


async def test_what_clients_are_told_of_begins_after_the_gap(
    server: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat", topic="old")
    await join(dora, room_id, server)
    await leave(dora, room_id, dora.user_id, alice)
    before = await dora.sync()
    between = await alice.send(room_id, "between")
    await alice.set_state(room_id, "m.room.topic", {"topic": "new"})
    await join(dora, room_id, server)
    dora.next_batch = before["next_batch"]
    for full in (False, True):
        section = (await dora.sync(full=full))["rooms"]["join"][room_id]
        assert [event["state_key"] for event in section["timeline"]["events"]] == [dora.user_id]
        assert section["timeline"]["limited"]
        state = {event["type"]: event["content"] for event in section["state"]["events"]}
        assert state["m.room.topic"] == {"topic": "new"}
        asked = {"dir": "b", "limit": 2, "from": section["timeline"]["prev_batch"]}
        page = await dora.get(f"/rooms/{quote(room_id)}/messages", query=asked)
        assert page["chunk"][1]["event_id"] == between


async def _has(client: Client, room_id: str, body: str) -> bool:
    return body in bodies(await pages(client, room_id))


async def test_several_gaps_are_filled_each_in_its_place_in_whatever_order(
    server: Homeserver, alice: Client, dora: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federation.backfill, "BATCH", 5)
    room_id = await alice.create_room(preset="public_chat")
    said = []
    for stay in range(3):
        for n in range(12):
            said.append(await alice.send(room_id, f"{stay} {n}"))
        await join(dora, room_id, server)
        if stay < 2:
            await leave(dora, room_id, dora.user_id, alice)
    there = ids(await pages(alice, room_id))
    # The newest gap in part, the past before the room was known, then all the rest.
    query = {"dir": "b", "limit": 4}
    messages = f"/rooms/{quote(room_id)}/messages"
    page = await dora.get(messages, query=query)
    page = await dora.get(messages, query={**query, "from": page["end"]})
    assert ids(page["chunk"]) == there[1:5]
    own = await dora.get(f"/_matrix/client/v1/rooms/{quote(room_id)}/timestamp_to_event?ts=0&dir=f")
    # The events of the room's creation may be of one time.
    assert own["event_id"] in there[-6:]
    kept = page["end"]
    assert ids(await pages(dora, room_id, limit=4)) == there
    rest = await dora.get(messages, query={"dir": "b", "limit": 100, "from": kept})
    assert ids(rest["chunk"]) == there[5 : 5 + len(rest["chunk"])]
    again = await dora.get(messages, query={"dir": "f", "limit": 3, "from": kept})
    assert ids(again["chunk"]) == there[2:5][::-1]


async def test_what_was_too_much_to_be_caught_up_with_is_read_in_its_place(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federation.missing_events, "MAX_BETWEEN", 5)
    monkeypatch.setattr(federation.missing_events, "MOST_BETWEEN", 5)
    room_id = await alice.create_room(preset="public_chat")
    await join(dora, room_id, server)
    await second.stop()
    for n in range(60):
        await alice.send(room_id, f"meanwhile {n}")
    await second.start()
    dora._base = second.base
    await alice.send(room_id, "at last")
    await until(lambda: _has(dora, room_id, "at last"))
    assert ids(await pages(dora, room_id, limit=7)) == ids(await pages(alice, room_id))
    assert await state_of(dora, room_id) == await state_of(alice, room_id)


async def test_who_was_out_of_the_room_sees_of_that_time_what_the_room_let_them_see(
    server: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await join(dora, room_id, server)
    await leave(dora, room_id, dora.user_id, alice)
    for setting in ("shared", "joined", "invited", "world_readable", "shared"):
        await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": setting})
        for n in range(3):
            await alice.send(room_id, f"{setting} {n}")
    await join(dora, room_id, server)
    assert bodies(await pages(dora, room_id, limit=4)) == [
        *(f"shared {n}" for n in (2, 1, 0)),
        *(f"world_readable {n}" for n in (2, 1, 0)),
        *(f"shared {n}" for n in (2, 1, 0)),
    ]


async def test_a_place_and_a_time_between_two_stays_are_found(
    server: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat", topic="old")
    await join(dora, room_id, server)
    early = await dora.send(room_id, "first stay")
    await leave(dora, room_id, dora.user_id, alice)
    between = [await alice.send(room_id, f"between {n}") for n in range(6)]
    await alice.set_state(room_id, "m.room.topic", {"topic": "new"})
    await alice.set_state(room_id, "m.room.avatar", {"url": "mxc://a/b"})
    await join(dora, room_id, server)
    wanted = await alice.get(f"/rooms/{quote(room_id)}/event/{quote(between[2])}")
    for direction in ("b", "f"):
        found = await dora.get(
            f"/_matrix/client/v1/rooms/{quote(room_id)}/timestamp_to_event",
            query={"ts": wanted["origin_server_ts"], "dir": direction},
        )
        assert found["event_id"] == between[2]
    here = await around(dora, room_id, between[0])
    assert [ids(here[name]) for name in ("events_before", "events_after")] == [
        ids(await _context(alice, room_id, between[0], name)) for name in ("events_before", "events_after")
    ]
    after = await dora.get(
        f"/rooms/{quote(room_id)}/messages", query={"dir": "f", "from": here["end"], "limit": 2}
    )
    assert ids(after["chunk"]) == between[3:5]
    # What the room was before the gap does not know what was set in it.
    before = {event["type"]: event for event in (await around(dora, room_id, early, limit=0))["state"]}
    assert before["m.room.topic"]["content"]["topic"] == "old"
    assert "m.room.avatar" not in before


async def _context(client: Client, room_id: str, event_id: str, name: str) -> list[Any]:
    found: list[Any] = (await around(client, room_id, event_id))[name]
    return found


async def test_what_was_redacted_between_two_stays_stays_so(
    server: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await join(dora, room_id, server)
    await leave(dora, room_id, dora.user_id, alice)
    regretted = await alice.send(room_id, "regretted")
    await alice.redact(room_id, regretted)
    await join(dora, room_id, server)

    async def is_pruned() -> bool:
        (event,) = [each for each in await pages(dora, room_id) if each["event_id"] == regretted]
        return event["content"] == {}

    await until(is_pruned)


async def test_a_room_of_this_server_goes_on_elsewhere_and_is_come_back_to(
    server: Homeserver, second: Homeserver, alice: Client, dora: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await join(dora, room_id, server)
    await leave(alice, room_id, alice.user_id, dora)
    for n in range(5):
        await dora.send(room_id, f"between {n}")
    await join(alice, room_id, second)
    await alice.send(room_id, "back")
    assert bodies(await pages(alice, room_id, limit=2)) == [
        "back",
        *(f"between {n}" for n in range(4, -1, -1)),
    ]
    assert (await pages(alice, room_id))[-1]["type"] == "m.room.create"


def test_reading_goes_through_all_there_is_in_order_and_back() -> None:
    rng = random.Random(7)
    for _ in range(200):
        live = sorted(rng.sample(range(1, 40), rng.randint(1, 20)))
        gaps = [0, *rng.sample(range(1, 40), rng.randint(0, 4))]
        fetched = {in_gap(gap, 2 * n + 2) for gap in gaps for n in range(rng.randint(0, 4))}
        # Tokens say where somebody is, and fetched events are below what follows upon the gap.
        everything = sorted([*live, *fetched], key=above)
        for backwards in (True, False):
            at, stop = (above(50), 0) if backwards else (0, above(50))
            read: list[int] = []
            while stretch := next_stretch(gaps, at, stop, backwards=backwards):
                page = [each for each in everything if stretch.after < each <= stretch.upto]
                page = sorted(page, reverse=backwards)[:2]
                read += page
                if len(page) == 2:
                    at = below(page[-1]) if backwards else above(page[-1])
                else:
                    at = stretch.low if backwards else stretch.high
                token = token_position(at, backwards=backwards)
                assert token >= 0 or token in range(lower_end(max(gaps)), 0)
            assert read == (everything[::-1] if backwards else everything)
