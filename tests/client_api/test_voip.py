"""TURN servers for calls (spec: client-server "Voice over IP")."""

import base64
import hashlib
import hmac
import time

import msgspec

from homeserver.config import Config
from homeserver.config.options import Turn
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
