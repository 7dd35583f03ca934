"""Rooms shared with another user (spec: client-server "Mutual Rooms")."""

import pytest

from client_api import mutual_rooms as module
from tests.client_api.conftest import Client

PATH = "/_matrix/client/v1/mutual_rooms"


async def test_rooms_of_both_are_listed_in_pages(
    alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    shared = set()
    for _ in range(5):
        room_id = await alice.create_room(preset="public_chat")
        await bob.join(room_id)
        shared.add(room_id)
    left = shared.pop()
    await bob.leave(left)
    invited = await alice.create_room(invite=[bob.user_id])
    found: list[str] = []
    query = {"user_id": bob.user_id}
    while True:
        page = await alice.get(PATH, query=query)
        assert page["count"] == 4
        assert len(page["joined"]) <= 2
        found += page["joined"]
        if "next_batch" not in page:
            break
        query["from"] = page["next_batch"]
    assert (set(found), len(found)) == (shared, 4)
    assert invited not in found


async def test_clients_that_ask_for_the_feature_find_it_by_its_old_name(alice: Client, bob: Client) -> None:
    features = (await alice.get("/_matrix/client/versions"))["unstable_features"]
    assert features["uk.half-shot.msc2666.query_mutual_rooms"] is True
    shared = await alice.create_room(preset="public_chat")
    await bob.join(shared)
    old = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"
    assert (await alice.get(old, query={"user_id": bob.user_id}))["joined"] == [shared]


async def test_somebody_who_does_not_exist_shares_nothing(alice: Client) -> None:
    for user_id in ("@nobody:localhost", "@nobody:elsewhere.example"):
        assert await alice.get(PATH, query={"user_id": user_id}) == {"joined": [], "count": 0}


async def test_who_is_asked_about_must_be_another_user_with_a_proper_id(alice: Client) -> None:
    assert (await alice.call("GET", PATH, expect=400)).errcode == "M_MISSING_PARAM"
    for user_id in (alice.user_id, "bob", "@bob", "@:localhost", "@zoë:localhost", "@a b:localhost"):
        reply = await alice.call("GET", PATH, query={"user_id": user_id}, expect=400)
        assert reply.errcode == "M_INVALID_PARAM"


@pytest.mark.parametrize("token", ["", "x", "bm8", "é", "!a:localhost", "x" * 5000])
async def test_tokens_of_elsewhere_are_refused(alice: Client, bob: Client, token: str) -> None:
    reply = await alice.call("GET", PATH, query={"user_id": bob.user_id, "from": token}, expect=400)
    assert reply.errcode == "M_INVALID_PARAM"
