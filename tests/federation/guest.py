"""Somebody who was invited by their e-mail address, and turns out to be a user of another server."""

import json
from typing import Any
from urllib.parse import quote

from aiohttp import web

from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.protocol.signing import SigningKey, sign_event, sign_json
from tests.federation.servers import V1, V2, OtherServer
from tests.federation_transport.network import Site

IDENTITY = SigningKey.from_seed("0", b"identity server".ljust(32))
TOKEN = "token"


class Guest:
    """Whom the identity server has vouched for."""

    def __init__(self, other: OtherServer, room_id: str, inviter: str, localpart: str = "guest") -> None:
        self.other = other
        self.user_id = f"@{localpart}:{other.name}"
        self.room_id = room_id
        self.inviter = inviter
        other.peer.site.below[f"{V2}/invite/"] = self._agree

    async def _agree(self, request: web.BaseRequest) -> web.StreamResponse:
        invite = json.loads(await request.read())
        return web.json_response({"event": self._signed(invite["room_version"], invite["event"])})

    def knows_old_invites_only(self) -> None:
        """Its server has version 1 of the endpoint alone, which knows the first two room versions alone."""
        site = self.other.peer.site
        del site.below[f"{V2}/invite/"]
        site.below[f"{V1}/invite/"] = self._agree_as_once

    async def _agree_as_once(self, request: web.BaseRequest) -> web.StreamResponse:
        event = json.loads(await request.read())
        assert {each["type"] for each in event["unsigned"]["invite_room_state"]} >= {"m.room.create"}
        return web.json_response([200, {"event": self._signed("1", event)}])

    def _signed(self, version: str, event: JsonObject) -> JsonObject:
        return sign_event(ROOM_VERSIONS[version], event, self.other.name, self.other.peer.key)

    def vouched(self, **more: Any) -> JsonObject:
        return sign_json({"mxid": self.user_id, "token": TOKEN, **more}, "id.example.org", IDENTITY)

    def partial(self, **changes: Any) -> Any:
        invite = {"display_name": "g...@example.org", "signed": self.vouched()}
        return {
            "type": "m.room.member",
            "room_id": self.room_id,
            "sender": self.inviter,
            "state_key": self.user_id,
            "content": {"membership": "invite", "third_party_invite": invite},
            **changes,
        }

    @staticmethod
    def expected(asked: Site) -> JsonObject:
        """The content of the state event, under the key `TOKEN`, by which somebody is waited for.

        `asked`: who knows whether the key still holds.
        """
        asked.answer("/valid", '{"valid": true}')
        url = f"https://{asked.address}:{asked.port}/valid"
        key = {"public_key": IDENTITY.verify_key_base64, "key_validity_url": url}
        return {"display_name": "g...@example.org", **key, "public_keys": [key]}

    async def exchange(self, partial: Any, expect: int = 200) -> str | None:
        path = f"{V1}/exchange_third_party_invite/{quote(self.room_id)}"
        return (await self.other.call("PUT", path, partial, expect=expect)).errcode
