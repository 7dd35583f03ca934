"""Reporting events, rooms and users (spec: client-server "Reporting Content")."""

from typing import Any

import pytest

from homeserver import reports as module
from storage.records.rooms import REPORTS, Report
from tests.client_api.conftest import Client, Server

REASON = {"reason": "this makes me sad"}


async def kept(server: Server) -> list[Report]:
    return await server.app.store.collection(REPORTS).find("by_time")


async def test_members_report_events_that_they_see(server: Server, alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    event_id = await alice.send(room_id)
    await bob.join(room_id)
    await bob.post(f"/rooms/{room_id}/report/{event_id}", {**REASON, "score": -100})
    (report,) = await kept(server)
    assert (report.reporter, report.room_id, report.subject) == (bob.user_id, room_id, event_id)
    assert report.reason == REASON["reason"]
    await bob.post(f"/rooms/{room_id}/report/{event_id}", {})


async def test_event_reports_need_membership_and_tell_nothing_else(
    server: Server, alice: Client, bob: Client
) -> None:
    """HARDENING 20: all that one may not report has the same answer."""
    room_id = await alice.create_room(
        preset="public_chat",
        initial_state=[{"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}],
    )
    event_id = await alice.send(room_id)
    other = await alice.create_room()
    elsewhere = await alice.send(other)
    refused = [await bob.call("POST", f"/rooms/{room_id}/report/{event_id}", REASON, expect=404)]
    await bob.join(room_id)
    for room, event in (
        (room_id, event_id),
        (room_id, elsewhere),
        (other, elsewhere),
        (room_id, "$" + "A" * 43),
        ("!nowhere:localhost", event_id),
    ):
        refused.append(await bob.call("POST", f"/rooms/{room}/report/{event}", REASON, expect=404))
    assert len({str(reply.body) for reply in refused}) == 1
    await bob.leave(room_id)
    await bob.call("POST", f"/rooms/{room_id}/report/{event_id}", REASON, expect=404)
    assert await kept(server) == []


async def test_anyone_reports_rooms_and_users_known_or_not(
    server: Server, alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room()
    for subject in (room_id, "!nowhere:localhost"):
        assert await bob.post(f"/rooms/{subject}/report", {"reason": ""}) == {}
    for subject in (alice.user_id, "@nobody:localhost", "@somebody:elsewhere.example"):
        assert await bob.post(f"/users/{subject}/report", REASON) == {}
    assert len(await kept(server)) == 5


@pytest.mark.parametrize("body", [{}, {"reason": 7}, {"reason": "é" * 3000}, {"reason": None}])
async def test_a_report_without_a_proper_reason_is_refused(
    server: Server, alice: Client, body: dict[str, Any]
) -> None:
    await alice.call("POST", "/rooms/!nowhere:localhost/report", body, expect=400)
    await alice.call("POST", "/users/@bob:localhost/report", body, expect=400)
    assert await kept(server) == []


@pytest.mark.parametrize(
    "path", ["/rooms/nowhere/report", "/users/bob/report", "/rooms/!a:localhost/report/nothing"]
)
async def test_what_is_no_id_is_refused(alice: Client, path: str) -> None:
    await alice.call("POST", path, REASON, expect=400)


async def test_growth_by_small_writes_ends_at_a_limit(
    server: Server, alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HARDENING 14: of one reporter the newest reports are kept, and one of each thing."""
    monkeypatch.setattr(module, "MAX_PER_REPORTER", 3)
    await bob.post(f"/users/{alice.user_id}/report", REASON)
    for number in range(5):
        await alice.post(f"/users/@u{number}:localhost/report", REASON)
    await alice.post("/users/@u4:localhost/report", {"reason": "again"})
    mine = [report for report in await kept(server) if report.reporter == alice.user_id]
    assert [(report.subject, report.reason) for report in mine] == [
        ("@u2:localhost", REASON["reason"]),
        ("@u3:localhost", REASON["reason"]),
        ("@u4:localhost", "again"),
    ]
    assert len(await kept(server)) == 4
