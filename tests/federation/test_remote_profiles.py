"""Profiles of other servers' users, for clients of this one (HARDENING 14)."""

import json
from typing import Any

import pytest

from tests.client_api.conftest import Client
from tests.federation.servers import Homeserver, OtherServer

QUERY = "/_matrix/federation/v1/query/profile"


def say(other: OtherServer, profile: Any, status: int = 200) -> None:
    other.peer.site.answer(QUERY, json.dumps(profile), status)


def asked(other: OtherServer) -> list[str]:
    return [seen.target for seen in other.peer.site.seen if QUERY in seen.target]


async def test_a_profile_is_asked_for_and_remembered_for_a_moment(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    user_id = f"@visitor:{other.name}"
    say(other, {"displayname": "Visitor", "avatar_url": None, "org.example.colour": {"r": 1}})
    for _ in range(2):
        assert await alice.get(f"/profile/{user_id}") == {
            "displayname": "Visitor",
            "org.example.colour": {"r": 1},
        }
    assert await alice.get(f"/profile/{user_id}/displayname") == {"displayname": "Visitor"}
    reply = await alice.call("GET", f"/profile/{user_id}/avatar_url", expect=404)
    assert reply.errcode == "M_NOT_FOUND"
    assert len(asked(other)) == 1
    now = server.app.people.remote_profiles._now
    server.app.people.remote_profiles._now = lambda: now() + 60_000
    say(other, {"displayname": "Another name"})
    assert await alice.get(f"/profile/{user_id}") == {"displayname": "Another name"}


async def test_what_does_not_fit_in_a_profile_is_left_out(other: OtherServer, alice: Client) -> None:
    say(other, {"displayname": ["x"], "avatar_url": "mxc://x/" + "y" * 2000, "": 1, "k" * 300: 1, "good": 1})
    assert await alice.get(f"/profile/@visitor:{other.name}") == {"good": 1}


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        ({"errcode": "M_NOT_FOUND", "error": "no"}, 404, 404),
        ({"errcode": "M_FORBIDDEN", "error": "no"}, 403, 502),
        (["displayname"], 200, 502),
        ({f"k{number}": "x" * 1_000 for number in range(90)}, 200, 502),
    ],
)
async def test_what_is_no_profile_is_an_error(
    other: OtherServer, alice: Client, answer: Any, status: int, expected: int
) -> None:
    say(other, answer, status)
    await alice.call("GET", f"/profile/@visitor:{other.name}", expect=expected)


async def test_strangers_cannot_make_the_server_ask_others(other: OtherServer, alice: Client) -> None:
    say(other, {"displayname": "Visitor"})
    path = f"/profile/@visitor:{other.name}"
    reply = await alice.stranger().call("GET", path, expect=403)
    assert reply.errcode == "M_FORBIDDEN"
    assert asked(other) == []
    await alice.stranger().get(f"/profile/{alice.user_id}")
