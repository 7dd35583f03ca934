"""People are invited by their e-mail addresses, with a real identity server that knows some of them."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.client_api.conftest import Client
from tests.client_api.test_account import proof
from tests.federation.identity_server import IdentityServer, Inviter, trust
from tests.federation.rooms import members
from tests.federation.servers import Homeserver
from tests.waiting import until


@pytest.fixture
async def inviter(alice: Client, identity: IdentityServer) -> Inviter:
    return Inviter(alice, identity, await identity.register(alice))


async def waiting(client: Client, room_id: str) -> dict[str, Any]:
    """The invites of a room that wait for somebody, by their tokens."""
    state = await client.get(f"/rooms/{quote(room_id)}/state")
    return {
        event["state_key"]: event["content"]
        for event in state
        if event["type"] == "m.room.third_party_invite"
    }


async def test_whom_the_identity_server_knows_is_invited(
    inviter: Inviter, identity: IdentityServer, alice: Client, bob: Client
) -> None:
    await identity.bind(bob, "strasse@example.org")
    room_id = await alice.create_room()
    await inviter.invite(room_id, "Straße@Example.ORG")
    assert (await members(alice, room_id))[bob.user_id] == "invite"
    assert await waiting(alice, room_id) == {}
    hashed = [seen for seen in identity.site.seen if seen.target.endswith("/lookup")]
    assert hashed and not any(b"example.org" in seen.body for seen in hashed)


async def test_an_invite_waits_for_whom_it_does_not_know(
    inviter: Inviter, identity: IdentityServer, alice: Client
) -> None:
    await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    room_id = await alice.create_room(name="Meeting")
    await inviter.invite(room_id, "Carol@Example.Org")
    mail = await identity.mailbox.next()
    assert (mail["to"], mail["room"], mail["sender"]) == ("carol@example.org", "Meeting", "Alice")
    ((token, content),) = (await waiting(alice, room_id)).items()
    assert token == mail["token"]
    assert content["display_name"] == "car...@exa..."
    assert content["public_key"] == content["public_keys"][0]["public_key"]
    assert all(
        key["key_validity_url"].startswith(f"https://{identity.name}/") for key in content["public_keys"]
    )


async def test_who_may_not_invite_has_nobody_written_to(
    inviter: Inviter, identity: IdentityServer, alice: Client, bob: Client
) -> None:
    another = Inviter(bob, identity, await identity.register(bob))
    room_id = await alice.create_room(preset="public_chat")
    asked = len(identity.site.seen)
    for _ in range(2):
        assert await another.invite(room_id, "carol@example.org", 403) == "M_FORBIDDEN"
        await bob.join(room_id)
    assert len(identity.site.seen) == asked
    assert identity.mailbox.mails == []


async def test_a_new_room_has_those_in_it_who_are_known_and_waits_for_the_others(
    inviter: Inviter, identity: IdentityServer, alice: Client, bob: Client
) -> None:
    await identity.bind(bob, "bob@example.org")
    room_id = await alice.create_room(
        preset="trusted_private_chat",
        is_direct=True,
        room_version="11",
        invite_3pid=[inviter.by("bob@example.org"), inviter.by("carol@example.org")],
    )
    assert len(await waiting(alice, room_id)) == 1
    assert (await identity.mailbox.next())["to"] == "carol@example.org"
    invited = (await bob.sync())["rooms"]["invite"][room_id]["invite_state"]["events"]
    assert [e["content"]["is_direct"] for e in invited if e["state_key"] == bob.user_id] == [True]
    levels = await alice.get(f"/rooms/{quote(room_id)}/state/m.room.power_levels")
    assert levels["users"][bob.user_id] == 100


async def test_a_token_that_the_identity_server_does_not_know_makes_no_room(
    inviter: Inviter, alice: Client
) -> None:
    wanted = {**inviter.by("bob@example.org"), "id_access_token": "another"}
    reply = await alice.call("POST", "/createRoom", {"invite_3pid": [wanted]}, expect=403)
    assert reply.errcode == "M_UNAUTHORIZED"
    assert (await alice.get("/joined_rooms"))["joined_rooms"] == []


async def becomes(user: Client, room_id: str, member: str, membership: str) -> None:
    async def look() -> bool:
        return (await members(user, room_id)).get(member) == membership

    await until(look, f"{user.user_id} sees that {member} is {membership!r}")


async def is_invited(user: Client, room_id: str) -> None:
    async def look() -> bool:
        return room_id in (await user.sync(full=True)).get("rooms", {}).get("invite", {})

    await until(look, f"{user.user_id} is invited")


async def test_who_shows_to_have_the_address_is_invited(
    inviter: Inviter, identity: IdentityServer, alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room()
    await inviter.invite(room_id, "carol@example.org")
    await identity.mailbox.next()
    await identity.bind(bob, "carol@example.org")
    await is_invited(bob, room_id)
    await bob.join(room_id)


async def test_who_follows_the_link_in_the_mail_joins(
    inviter: Inviter, identity: IdentityServer, alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room()
    await inviter.invite(room_id, "carol@example.org")
    mail = await identity.mailbox.next()
    wanted = {"mxid": bob.user_id, "token": mail["token"], "private_key": mail["key"]}
    signed = await identity.call("POST", "/sign-ed25519", wanted, await identity.register(bob))
    path = f"/rooms/{quote(room_id)}/join"
    other = {**signed, "mxid": alice.user_id}
    assert (await bob.call("POST", path, {"third_party_signed": other}, expect=403)).errcode == "M_FORBIDDEN"
    await bob.post(path, {"third_party_signed": signed})
    assert (await members(alice, room_id))[bob.user_id] == "join"


@pytest.mark.parametrize("version", ["1", "12"])
@pytest.mark.parametrize("takes_part", [False, True])
async def test_a_user_of_another_server_is_invited(
    inviter: Inviter,
    identity: IdentityServer,
    alice: Client,
    server: Homeserver,
    second: Homeserver,
    version: str,
    takes_part: bool,
) -> None:
    """By their own server where that is in the room, else by the inviter's."""
    await trust(second, identity)
    room_id = await alice.create_room(preset="public_chat", room_version=version)
    if takes_part:
        dave = await second.register("dave")
        await dave.post(f"/join/{quote(room_id)}", query={"via": server.name})
    await alice.set_state(room_id, "m.room.join_rules", {"join_rule": "invite"})
    await inviter.invite(room_id, "carol@example.org")
    await identity.mailbox.next()
    bob = await second.register("bob")
    if takes_part:
        await until(lambda: waiting(dave, room_id), "the other server knows of the invite")
    await identity.bind(bob, "carol@example.org")
    await is_invited(bob, room_id)
    await becomes(alice, room_id, bob.user_id, "invite")
    await bob.join(room_id)
    await becomes(alice, room_id, bob.user_id, "join")


@pytest.fixture
async def published(identity: IdentityServer, alice: Client) -> str:
    """Alice's address is known to the identity server; her token there."""
    token = await identity.register(alice)
    session = await identity.validate(token, "alice@example.org")
    where = {"id_server": identity.name, "id_access_token": token}
    assert await alice.post("/account/3pid/bind", {**session, **where}) == {}
    assert await identity.knows("alice@example.org", token)
    return token


@pytest.mark.parametrize("action", ["unbind", "delete"])
@pytest.mark.parametrize("named", [False, True])
async def test_a_user_takes_their_address_back(
    published: str, identity: IdentityServer, server: Homeserver, alice: Client, action: str, named: bool
) -> None:
    """The identity server, which is asked in the server's name, is the one where it was made public."""
    await server.restart()
    unwanted = {"medium": "email", "address": "Alice@Example.org"}
    if named:
        unwanted["id_server"] = identity.name
    path = f"/account/3pid/{action}"
    assert await alice.post(path, unwanted) == {"id_server_unbind_result": "success"}
    assert not await identity.knows("alice@example.org", published)
    if not named:
        assert await alice.post(path, unwanted) == {"id_server_unbind_result": "no-support"}


async def test_nobody_takes_the_address_of_another_user_away(
    published: str, identity: IdentityServer, bob: Client
) -> None:
    unwanted = {"medium": "email", "address": "alice@example.org", "id_server": identity.name}
    await bob.post("/account/3pid/unbind", unwanted)
    assert await identity.knows("alice@example.org", published)


async def test_of_a_deactivated_account_no_address_stays_published(
    published: str, identity: IdentityServer, alice: Client, bob: Client
) -> None:
    answer = await alice.post("/account/deactivate", {"auth": proof(alice)})
    assert answer == {"id_server_unbind_result": "success"}
    assert not await identity.knows("alice@example.org", await identity.register(bob))


async def test_what_was_not_shown_is_not_published(
    inviter: Inviter, identity: IdentityServer, alice: Client
) -> None:
    by = inviter.by("")
    where = {"id_server": by["id_server"], "id_access_token": by["id_access_token"]}
    session = {"sid": "1", "client_secret": "guess"}
    reply = await alice.call("POST", "/account/3pid/bind", {**session, **where}, expect=404)
    assert reply.errcode == "M_NO_VALID_SESSION"
