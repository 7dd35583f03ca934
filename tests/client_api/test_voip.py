"""What calls need: TURN servers (spec: client-server "Voice over IP"), and MatrixRTC (MSC4143)."""

import base64
import hashlib
import hmac
import time
from urllib.parse import quote

import msgspec

from homeserver.config import Config
from homeserver.config.options import Calls, Turn
from homeserver.config.units import Duration, Secret
from tests.client_api.conftest import Client, Server

URIS = ("turn:turn.example.org?transport=udp", "turns:turn.example.org")


def with_turn(config: Config, turn: Turn) -> Config:
    return msgspec.structs.replace(config, turn=turn)


async def test_without_a_turn_server_none_is_named(alice: Client) -> None:
    assert (await alice.get("/voip/turnServer"))["uris"] == []


async def test_a_shared_secret_makes_credentials_that_expire(server: Server, alice: Client) -> None:
    turn = Turn(uris=URIS, shared_secret=Secret("sesame"), lifetime=Duration.parse("2h"))
    await server.restart(with_turn(server.config, turn))
    again = server.client()
    again.token = alice.token
    answer = await again.get("/voip/turnServer")
    assert answer["uris"] == list(URIS)
    assert answer["ttl"] == 7200
    expiry, _, user_id = answer["username"].partition(":")
    assert user_id == alice.user_id
    assert 7100 < int(expiry) - time.time() <= 7200
    expected = hmac.new(b"sesame", answer["username"].encode(), hashlib.sha1).digest()
    assert base64.b64decode(answer["password"]) == expected


async def test_fixed_credentials_are_given_as_they_are(server: Server, alice: Client) -> None:
    turn = Turn(uris=URIS, username="weft", password=Secret("pw"))
    await server.restart(with_turn(server.config, turn))
    again = server.client()
    again.token = alice.token
    answer = await again.get("/voip/turnServer")
    assert (answer["username"], answer["password"]) == ("weft", "pw")


async def test_strangers_get_no_credentials(server: Server) -> None:
    await server.client().call("GET", "/voip/turnServer", expect=401)


# Group calls (MatrixRTC)

TRANSPORTS = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"
MEMBER = "org.matrix.msc3401.call.member"


async def test_clients_find_who_carries_group_calls(server: Server, alice: Client) -> None:
    """Element Call asks for it; older apps look for it beside the address of the server."""
    assert await alice.get(TRANSPORTS) == {"rtc_transports": []}
    assert list(await alice.get("/.well-known/matrix/client")) == ["m.homeserver"]
    urls = ("https://rtc.example.org/livekit/jwt", "https://spare.example.org")
    await server.restart(msgspec.structs.replace(server.config, calls=Calls(livekit=urls)))
    expected = [{"type": "livekit", "livekit_service_url": url} for url in urls]
    assert await alice.get(TRANSPORTS) == {"rtc_transports": expected}
    found = await server.client().get("/.well-known/matrix/client")
    assert found["org.matrix.msc4143.rtc_foci"] == expected
    await server.client().call("GET", TRANSPORTS, expect=401)


async def test_service_that_lets_people_into_a_call_learns_who_they_are(
    server: Server, alice: Client
) -> None:
    """With the token that the client gives it (MSC4195)."""
    openid = await alice.post(f"/user/{quote(alice.user_id)}/openid/request_token")
    assert openid["matrix_server_name"] == "localhost"
    path = "/_matrix/federation/v1/openid/userinfo"
    told = await server.client().get(path, query={"access_token": openid["access_token"]})
    assert told == {"sub": alice.user_id}


async def test_members_of_a_call_say_so_where_the_room_lets_them(alice: Client, bob: Client) -> None:
    """Under a state key for each device, which begins with `_` as it may not with somebody's user id."""
    levels = {"events": {MEMBER: 0}}
    room_id = await alice.create_room(preset="public_chat", power_level_content_override=levels)
    await bob.join(room_id)
    content = {"application": "m.call", "call_id": "", "scope": "m.room", "device_id": bob.device_id}
    await bob.set_state(room_id, MEMBER, content, f"_{bob.user_id}_{bob.device_id}_m.call")
    await bob.set_state(room_id, MEMBER, content, f"_{bob.user_id}_{bob.device_id}")
    other = await alice.create_room(preset="public_chat")
    await bob.join(other)
    path = f"/rooms/{quote(other)}/state/{MEMBER}/{quote(f'_{bob.user_id}_{bob.device_id}_m.call')}"
    await bob.call("PUT", path, content, expect=403)
