"""What grows by small writes is bounded (HARDENING 14): each filled to its cap, and one over.

Profiles, keys, backups, to-device messages, push rules, pushers and reports have such tests of their own.
"""

from urllib.parse import quote

import pytest

from homeserver.sync import stored_filters
from homeserver.users import account_data
from homeserver.users.account_data import MAX_BYTES, MAX_TYPE_BYTES
from tests.client_api.conftest import Client, Server


def mine(client: Client, path: str) -> str:
    return f"/user/{quote(client.user_id)}/{path}"


async def test_hardening_14_one_piece_of_account_data_is_bounded(alice: Client) -> None:
    frame = len('{"a":""}')
    full = {"a": "x" * (MAX_BYTES - frame)}
    await alice.put(mine(alice, "account_data/org.example"), full)
    over = {"a": "x" * (MAX_BYTES - frame + 1)}
    reply = await alice.call("PUT", mine(alice, "account_data/org.example"), over, expect=400)
    assert reply.errcode == "M_INVALID_PARAM"
    assert await alice.get(mine(alice, "account_data/org.example")) == full
    await alice.put(mine(alice, "account_data/" + "t" * MAX_TYPE_BYTES), {})
    await alice.call("PUT", mine(alice, "account_data/" + "t" * (MAX_TYPE_BYTES + 1)), {}, expect=400)


async def test_hardening_14_all_account_data_together_is_bounded(
    server: Server, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_data, "MAX_ALL_BYTES", 3_000)
    room_id = await alice.create_room()
    places = ["account_data/a", "account_data/b", f"rooms/{quote(room_id)}/account_data/a"]
    for place in places[:2]:
        await alice.put(mine(alice, place), {"a": "x" * 1_400})
    for _ in range(2):
        reply = await alice.call("PUT", mine(alice, places[2]), {"a": "x" * 1_400}, expect=400)
        assert reply.errcode == "M_INVALID_PARAM"
        await server.restart()
    # What takes the place of something needs no more room than before.
    await alice.put(mine(alice, places[0]), {"a": "y" * 1_400})
    await alice.put(mine(alice, places[1]), {})
    await alice.put(mine(alice, places[2]), {"a": "x" * 1_400})


async def test_hardening_14_types_of_account_data_are_bounded(
    alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_data, "MAX_KEYS", 3)
    for n in range(3):
        await alice.put(mine(alice, f"account_data/{n}"), {})
    assert (
        await alice.call("PUT", mine(alice, "account_data/3"), {}, expect=400)
    ).errcode == "M_INVALID_PARAM"
    await alice.put(mine(alice, "account_data/0"), {"again": True})


async def test_hardening_14_filters_are_bounded(alice: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_filters, "MAX_FILTERS", 3)
    path = mine(alice, "filter")
    for n in range(3):
        await alice.post(path, {"room": {"timeline": {"limit": n}}})
    reply = await alice.call("POST", path, {"room": {"timeline": {"limit": 3}}}, expect=400)
    assert reply.errcode == "M_INVALID_PARAM"
    await alice.post(path, {"room": {"timeline": {"limit": 0}}})
    large = {"event_fields": ["x" * stored_filters.MAX_FILTER_BYTES]}
    assert (await alice.call("POST", path, large, expect=400)).errcode == "M_INVALID_PARAM"
