"""Somebody is invited by their e-mail address on one server, and has an account on the other.

spec: server-server "Third-party invites"
"""

from urllib.parse import quote

import pytest

from tests.client_api.conftest import Client
from tests.federation.identity_server import IdentityServer, Inviter
from tests.federation.with_synapse.sides import Sides, becomes, join


@pytest.mark.parametrize("version", ["1", "12"])
@pytest.mark.parametrize("takes_part", [False, True])
async def test_who_shows_to_have_the_address_is_invited(
    sides: Sides, identity: IdentityServer, version: str, takes_part: bool
) -> None:
    """By their own server where that is in the room, else by the inviter's."""
    room_id = await sides.host.create_room(preset="public_chat", room_version=version)
    if takes_part:
        other = await somebody_beside(sides)
        await join(other, room_id, sides.host_name)
        await becomes(sides.host, room_id, other.user_id, "join")
    await sides.host.set_state(room_id, "m.room.join_rules", {"join_rule": "invite"})
    inviter = Inviter(sides.host, identity, await identity.register(sides.host))
    await inviter.invite(room_id, "carol@example.org")
    assert (await identity.mailbox.next())["to"] == "carol@example.org"
    await identity.bind(sides.guest, "carol@example.org")
    await becomes(sides.host, room_id, sides.guest.user_id, "invite")
    await join(sides.guest, room_id, sides.host_name)
    await becomes(sides.host, room_id, sides.guest.user_id, "join")


async def test_who_follows_the_link_in_the_mail_joins(sides: Sides, identity: IdentityServer) -> None:
    room_id = await sides.host.create_room()
    inviter = Inviter(sides.host, identity, await identity.register(sides.host))
    await inviter.invite(room_id, "carol@example.org")
    mail = await identity.mailbox.next()
    wanted = {"mxid": sides.guest.user_id, "token": mail["token"], "private_key": mail["key"]}
    signed = await identity.call("POST", "/sign-ed25519", wanted, await identity.register(sides.guest))
    await sides.guest.post(
        f"/join/{quote(room_id)}", {"third_party_signed": signed}, query={"via": sides.host_name}
    )
    await becomes(sides.host, room_id, sides.guest.user_id, "join")


async def somebody_beside(sides: Sides) -> Client:
    """Another user of the guest's server."""
    name = f"beside{sides.guest.user_id.partition(':')[0][1:]}"
    return await sides.guest.stranger().register(name)
