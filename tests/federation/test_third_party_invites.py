"""Somebody was invited by their e-mail address, and turns out to be a user of another server."""

from typing import Any
from urllib.parse import quote

import pytest
from msgspec.structs import replace
from yarl import URL

from homeserver.config.options import Identity
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.signing import sign_json
from tests.client_api.conftest import Client
from tests.client_api.test_rate_limits import limit
from tests.federation.guest import IDENTITY, TOKEN, Guest
from tests.federation.rooms import members
from tests.federation.servers import V1, Homeserver, OtherServer
from tests.federation.visitor import Visitor


@pytest.fixture
async def guest(other: OtherServer, alice: Client) -> Guest:
    room_id = await alice.create_room()
    await alice.set_state(room_id, "m.room.third_party_invite", Guest.expected(other.peer.site), TOKEN)
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


async def test_who_is_in_the_room_already_stays_there(
    server: Homeserver, guest: Guest, alice: Client
) -> None:
    """An identity server that was not answered says it all again, and Synapse passes it on."""
    await guest.exchange(guest.partial())
    await Visitor(server, guest.other, "guest").member(guest.room_id, "join")
    await guest.exchange(guest.partial())
    assert (await members(alice, guest.room_id))[guest.user_id] == "join"


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


async def test_a_key_that_was_withdrawn_counts_no_more(guest: Guest, alice: Client) -> None:
    site = guest.other.peer.site
    for said, status in (('{"valid": false}', 403), ("{}", 403), ("<html>", 502), ("x" * 10_000, 502)):
        site.answer("/valid", said)
        await guest.exchange(guest.partial(), status)
    assert guest.user_id not in await members(alice, guest.room_id)
    asked = {URL(seen.target).query["public_key"] for seen in site.seen if seen.target.startswith("/valid")}
    assert asked == {IDENTITY.verify_key_base64}


async def test_only_addresses_that_may_be_asked_are_asked_for_a_key(guest: Guest, alice: Client) -> None:
    for url in ("file:///etc/passwd", "https://10.0.0.1/valid", "no url", 1, {}):
        expected = Guest.expected(guest.other.peer.site)
        expected["public_keys"] = []
        await alice.set_state(
            guest.room_id, "m.room.third_party_invite", {**expected, "key_validity_url": url}, TOKEN
        )
        await guest.exchange(guest.partial(), 502)
    assert guest.user_id not in await members(alice, guest.room_id)


async def test_nobody_but_the_inviter_says_where_to_ask_for_a_key(
    server: Homeserver, guest: Guest, alice: Client
) -> None:
    """HARDENING 38: whoever is in a room could have this server ask anybody for anything."""
    visitor = Visitor(server, guest.other)
    await alice.set_state(guest.room_id, "m.room.join_rules", {"join_rule": "public"})
    await visitor.member(guest.room_id, "join")
    expected = Guest.expected(guest.other.peer.site)
    await visitor.send(guest.room_id, "m.room.third_party_invite", expected, TOKEN)
    assert await guest.exchange(guest.partial(), 403) == "M_FORBIDDEN"
    assert not any(seen.target.startswith("/valid") for seen in guest.other.peer.site.seen)


@pytest.fixture
async def trusting(server: Homeserver) -> Homeserver:
    """It does not matter who is trusted: who vouched is known by the room."""
    await server.restart(replace(server.config, identity=Identity(("id.example.org",))))
    return server


def bound(user: Client, guest: Guest, **changes: Any) -> JsonObject:
    """What an identity server tells of somebody who turns out to be a user of this server."""
    signed = sign_json({"mxid": user.user_id, "token": TOKEN}, "id.example.org", IDENTITY)
    claim = {"room_id": guest.room_id, "sender": guest.inviter, "signed": signed, **changes}
    of = {"medium": "email", "address": "guest@example.org", "mxid": user.user_id}
    return {**of, "invites": [{**of, **claim}]}


async def tell(other: OtherServer, told: Any, expect: int = 200) -> None:
    await other.call("PUT", f"{V1}/3pid/onbind", told, signed=False, expect=expect)


async def test_a_user_of_this_server_is_invited_once(
    trusting: Homeserver, guest: Guest, alice: Client, bob: Client
) -> None:
    """What proves the invite is in the room for everybody to read: who says it again changes nothing."""
    await tell(guest.other, bound(bob, guest))
    await bob.join(guest.room_id)
    await tell(guest.other, bound(bob, guest))
    assert (await members(alice, guest.room_id))[bob.user_id] == "join"


async def test_an_identity_server_is_believed_as_far_as_the_room_has_its_keys(
    trusting: Homeserver, guest: Guest, alice: Client, bob: Client
) -> None:
    forged = sign_json({"mxid": bob.user_id, "token": TOKEN}, "id.example.org", guest.other.peer.key)
    for claim in (
        bound(bob, guest, signed=forged),
        bound(bob, guest, signed={}),
        bound(bob, guest, sender=bob.user_id),
        bound(bob, guest, sender="nobody"),
        bound(bob, guest, sender="@nobody:nowhere.invalid", room_id="!there:nowhere.invalid"),
        bound(bob, guest, room_id="nowhere"),
        {**bound(bob, guest), "mxid": alice.user_id},
    ):
        reached = "nowhere.invalid" not in str(claim)
        await tell(guest.other, claim, 200 if reached else 502)
    for wrong in ({}, {"mxid": bob.user_id, "invites": {}}, {"mxid": bob.user_id, "invites": [{}]}):
        await tell(guest.other, wrong, 400)
    await tell(guest.other, {**bound(bob, guest), "mxid": f"@nobody:{trusting.name}"}, 404)
    await tell(guest.other, {**bound(bob, guest), "mxid": guest.user_id}, 404)
    assert await members(alice, guest.room_id) == {alice.user_id: "join"}


async def test_what_could_not_be_done_may_be_told_again(
    trusting: Homeserver, guest: Guest, alice: Client, bob: Client
) -> None:
    site = guest.other.peer.site
    site.answer("/valid", b"", 503)
    await tell(guest.other, bound(bob, guest), 502)
    site.answer("/valid", '{"valid": true}')
    await tell(guest.other, bound(bob, guest))
    assert (await members(alice, guest.room_id))[bob.user_id] == "invite"


async def test_an_invite_that_cannot_be_had_keeps_nobody_from_the_others(
    trusting: Homeserver, guest: Guest, alice: Client, bob: Client
) -> None:
    told = bound(bob, guest)
    unreachable = bound(bob, guest, sender="@nobody:nowhere.invalid", room_id="!there:nowhere.invalid")
    await tell(guest.other, {**told, "invites": [*unreachable["invites"], *told["invites"]]}, 502)
    assert (await members(alice, guest.room_id))[bob.user_id] == "invite"


async def test_who_wants_no_invites_gets_none_by_their_address(
    trusting: Homeserver, guest: Guest, alice: Client, bob: Client
) -> None:
    path = f"/user/{bob.user_id}/account_data/m.invite_permission_config"
    await bob.put(path, {"default_action": "block"})
    await tell(guest.other, bound(bob, guest))
    assert bob.user_id not in await members(alice, guest.room_id)


async def test_identity_servers_are_not_listened_to_where_none_is_trusted(
    other: OtherServer, alice: Client
) -> None:
    told = {"medium": "email", "address": "a@example.org", "mxid": alice.user_id, "invites": []}
    reply = await other.call("PUT", f"{V1}/3pid/onbind", told, signed=False, expect=400)
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
