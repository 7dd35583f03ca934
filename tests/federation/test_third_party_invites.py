"""Somebody was invited by their e-mail address, and turns out to be a user of another server."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import SigningKey, sign_event, sign_json
from tests.client_api.conftest import Client
from tests.federation.rooms import members
from tests.federation.servers import V1, V2, Homeserver, OtherServer

IDENTITY = SigningKey.from_seed("0", b"identity server".ljust(32))
TOKEN = "token"


class Guest:
    """Whom the identity server has vouched for."""

    def __init__(self, other: OtherServer, room_id: str, inviter: str) -> None:
        self.other = other
        self.user_id = f"@guest:{other.name}"
        self.room_id = room_id
        self.inviter = inviter
        other.peer.site.below[f"{V2}/invite/"] = self._agree

    async def _agree(self, request: web.BaseRequest) -> web.StreamResponse:
        invite = json.loads(await request.read())
        version = ROOM_VERSIONS[invite["room_version"]]
        signed = sign_event(version, invite["event"], self.other.name, self.other.peer.key)
        return web.json_response({"event": signed})

    def partial(self, **changes: Any) -> Any:
        signed = sign_json({"mxid": self.user_id, "token": TOKEN}, "id.example.org", IDENTITY)
        invite = {"display_name": "g...@example.org", "signed": signed}
        return {
            "type": "m.room.member",
            "room_id": self.room_id,
            "sender": self.inviter,
            "state_key": self.user_id,
            "content": {"membership": "invite", "third_party_invite": invite},
            **changes,
        }

    async def exchange(self, partial: Any, expect: int = 200) -> str | None:
        path = f"{V1}/exchange_third_party_invite/{quote(self.room_id)}"
        return (await self.other.call("PUT", path, partial, expect=expect)).errcode


@pytest.fixture
async def guest(other: OtherServer, alice: Client) -> Guest:
    room_id = await alice.create_room()
    key = {"public_key": IDENTITY.verify_key_base64, "key_validity_url": "https://id.example.org/valid"}
    invite = {"display_name": "g...@example.org", **key, "public_keys": [key]}
    await alice.set_state(room_id, "m.room.third_party_invite", invite, TOKEN)
    return Guest(other, room_id, alice.user_id)


async def test_who_was_vouched_for_is_invited(guest: Guest, alice: Client) -> None:
    await guest.exchange(guest.partial())
    assert (await members(alice, guest.room_id))[guest.user_id] == "invite"


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
