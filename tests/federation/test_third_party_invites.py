"""Somebody was invited by their e-mail address, and turns out to be a user of another server."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.protocol.signing import sign_json
from tests.client_api.conftest import Client
from tests.client_api.test_rate_limits import limit
from tests.federation.guest import TOKEN, Guest
from tests.federation.rooms import members
from tests.federation.servers import V1, Homeserver, OtherServer


@pytest.fixture
async def guest(other: OtherServer, alice: Client) -> Guest:
    room_id = await alice.create_room()
    await alice.set_state(room_id, "m.room.third_party_invite", Guest.expected(), TOKEN)
    return Guest(other, room_id, alice.user_id)


async def test_who_was_vouched_for_is_invited(guest: Guest, alice: Client) -> None:
    await guest.exchange(guest.partial())
    assert (await members(alice, guest.room_id))[guest.user_id] == "invite"


async def test_their_name_is_the_one_that_the_room_has(guest: Guest, alice: Client) -> None:
    """Synapse says none, and it is not for another server to choose."""
    unnamed = guest.partial()
    del unnamed["content"]["third_party_invite"]["display_name"]
    await guest.exchange(unnamed)
    path = f"/rooms/{quote(guest.room_id)}/state/m.room.member/{quote(guest.user_id)}"
    assert (await alice.get(path))["third_party_invite"]["display_name"] == "g...@example.org"


async def test_what_else_was_signed_is_kept(guest: Guest, alice: Client) -> None:
    """Who follows the link in an e-mail is vouched for together with the inviter (spec: sign-ed25519)."""
    vouched = guest.vouched(sender=alice.user_id)
    content = guest.partial()["content"]
    invite = {**content["third_party_invite"], "signed": vouched}
    await guest.exchange(guest.partial(content={**content, "third_party_invite": invite}))
    path = f"/rooms/{quote(guest.room_id)}/state/m.room.member/{quote(guest.user_id)}"
    assert (await alice.get(path))["third_party_invite"]["signed"] == vouched


async def test_nobody_else_is(server: Homeserver, guest: Guest, alice: Client, bob: Client) -> None:
    content = guest.partial()["content"]

    def signed(**changes: Any) -> Any:
        invite = content["third_party_invite"]
        changed = {**invite, "signed": {**invite["signed"], **changes}}
        return guest.partial(content={**content, "third_party_invite": changed})

    forged = sign_json({"mxid": guest.user_id, "token": TOKEN}, "id.example.org", guest.other.peer.key)
    assert await guest.exchange(signed(signatures=forged["signatures"]), 403) == "M_FORBIDDEN"
    assert await guest.exchange(signed(token="another"), 403) == "M_FORBIDDEN"
    assert await guest.exchange(signed(mxid=f"@x:{guest.other.name}"), 403) == "M_FORBIDDEN"
    assert await guest.exchange(guest.partial(sender=bob.user_id), 403) == "M_FORBIDDEN"
    assert await guest.exchange(guest.partial(sender=guest.user_id), 403) == "M_FORBIDDEN"
    for wrong in (
        guest.partial(type="m.room.power_levels"),
        guest.partial(room_id="!another:example.org"),
        guest.partial(state_key=bob.user_id),
        guest.partial(content={**content, "membership": "join"}),
        guest.partial(content={"membership": "invite"}),
        {},
    ):
        assert (await guest.exchange(wrong, 400)) in ("M_INVALID_PARAM", "M_MISSING_PARAM")
    assert guest.user_id not in await members(alice, guest.room_id)


async def test_identity_servers_are_not_listened_to(other: OtherServer, alice: Client) -> None:
    bound = {"medium": "email", "address": "a@example.org", "mxid": alice.user_id, "invites": []}
    reply = await other.call("PUT", f"{V1}/3pid/onbind", bound, signed=False, expect=400)
    assert reply.errcode == "M_SERVER_NOT_TRUSTED"


async def test_who_was_vouched_for_is_not_invited_again_and_again(
    server: Homeserver, guest: Guest, alice: Client
) -> None:
    """HARDENING 38: each time would be an event in alice's name."""
    await limit(server, invite=2)
    for _ in range(2):
        await guest.exchange(guest.partial())
    assert await guest.exchange(guest.partial(), 429) == "M_LIMIT_EXCEEDED"
    another = Guest(guest.other, guest.room_id, alice.user_id, "another")
    await another.exchange(another.partial())
