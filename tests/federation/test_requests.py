"""Who is let in, and what a request may be: for every route, whatever it does (HARDENING 11)."""

import json
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from msgspec.structs import replace

from federation.http import MAX_BODY, Auth
from homeserver.config.options import Federation, Rate, RateLimits
from tests.client_api.conftest import Client
from tests.federation.servers import Homeserver, OtherServer, another
from tests.federation_transport.network import Internet
from tests.federation_transport.peers import key_of

VERSION = "/_matrix/federation/v1/version"
PROFILE = "/_matrix/federation/v1/query/profile"
KEYS = "/_matrix/federation/v1/user/keys/query"


def signed_routes(server: Homeserver) -> list[tuple[str, str]]:
    """(method, some path) of every route that wants a signature."""
    return [
        (route.method, "/".join("x" if part.startswith("{") else part for part in route.path.split("/")))
        for module in server.app.federation_modules
        for route, _ in module.routes()
        if route.options.get("auth", Auth.SERVER) is Auth.SERVER
    ]


def body_for(method: str) -> Any:
    return {} if method != "GET" else None


async def test_no_route_is_open_to_those_who_sign_nothing(server: Homeserver, other: OtherServer) -> None:
    routes = signed_routes(server)
    assert len(routes) >= 11
    for method, path in routes:
        reply = await other.call(method, path, body_for(method), signed=False, expect=401)
        assert reply.errcode == "M_UNAUTHORIZED"
    assert other.peer.asked == 0


async def test_no_route_takes_the_signature_of_another_key(server: Homeserver, other: OtherServer) -> None:
    stranger = key_of("stranger")
    for method, path in signed_routes(server):
        reply = await other.call(method, path, body_for(method), key=stranger, expect=401)
        assert reply.errcode == "M_UNAUTHORIZED"


async def test_no_route_takes_what_was_signed_for_another_server(
    server: Homeserver, other: OtherServer
) -> None:
    for method, path in signed_routes(server):
        await other.call(method, path, body_for(method), destination="third.example.org", expect=401)
    # Nor may the header name this server over a signature for another one.
    header = other.signature("GET", PROFILE, destination="third.example.org")["Authorization"]
    await other.call("GET", PROFILE, header=header.replace("third.example.org", server.name), expect=401)


async def test_a_signature_is_for_one_method_path_query_and_content(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    target = f"{PROFILE}?user_id={quote(alice.user_id)}"
    header = other.signature("GET", target)["Authorization"]
    assert (await other.get(target, header=header))["displayname"] == "alice"
    await other.call("GET", f"{target}&field=displayname", header=header, expect=401)
    content = {"device_keys": {alice.user_id: []}}
    header = other.signature("POST", KEYS, content)["Authorization"]
    await other.call("POST", KEYS, content, header=header)
    await other.call("POST", KEYS, {"device_keys": {}}, header=header, expect=401)
    await other.call("POST", "/_matrix/federation/v1/user/keys/claim", content, header=header, expect=401)


async def test_a_server_signs_for_itself_alone(
    server: Homeserver, other: OtherServer, internet: Internet, http: aiohttp.ClientSession
) -> None:
    third = await another(internet, server, http)
    await other.call("GET", PROFILE, origin=third.name, expect=401)
    await other.call("GET", PROFILE, origin=server.name, expect=401)


async def test_keys_that_a_server_has_ceased_to_publish_open_nothing(
    server: Homeserver, other: OtherServer
) -> None:
    await other.call("GET", PROFILE, key=key_of(other.name, "a_2"), expect=401)
    other.peer.fail()
    await other.call("GET", PROFILE, key=key_of(other.name, "a_3"), expect=401)


async def test_servers_that_are_shut_out_are_told_so(server: Homeserver, other: OtherServer) -> None:
    federation = replace(server.config.federation, deny=(other.name,))
    await server.restart(replace(server.config, federation=federation))
    for method, path in signed_routes(server):
        reply = await other.call(method, path, body_for(method), expect=403)
        assert reply.errcode == "M_FORBIDDEN"
    assert other.peer.asked == 0
    assert (await other.get(VERSION, signed=False))["server"]["name"] == "Weft"


async def test_a_body_is_of_a_sensible_size(server: Homeserver, other: OtherServer) -> None:
    content = {"device_keys": {}, "much": "x" * MAX_BODY}
    reply = await other.call("POST", KEYS, content, expect=413)
    assert reply.errcode == "M_TOO_LARGE"
    await other.call("POST", KEYS, {"device_keys": {}, "much": "x" * (MAX_BODY // 2)})


@pytest.mark.parametrize(
    ("sent", "errcode"),
    [(b"{", "M_NOT_JSON"), (b"[]", "M_BAD_JSON"), (b'{"a":' * 200 + b"1" + b"}" * 200, "M_BAD_JSON")],
)
async def test_a_body_is_a_json_object(other: OtherServer, sent: bytes, errcode: str) -> None:
    assert (await other.call("POST", KEYS, {}, sent=sent, expect=400)).errcode == errcode


async def test_what_the_body_lacks_is_named(other: OtherServer) -> None:
    for content in ({}, {"device_keys": 1}, {"device_keys": {"@a:b": 1}}):
        await other.call("POST", KEYS, content, expect=400)
    await other.call("GET", PROFILE, expect=400)


async def test_keys_are_found_where_they_were_before_version_1_7(other: OtherServer) -> None:
    """Sydent and older servers still ask there."""
    keys = await other.get("/_matrix/key/v2/server")
    for key_id in ("", "ed25519%3Aauto"):
        assert await other.get(f"/_matrix/key/v2/server/{key_id}", signed=False) == keys


async def test_unknown_paths_and_methods_are_so_whoever_asks(other: OtherServer) -> None:
    for signed in (True, False):
        reply = await other.call("GET", "/_matrix/federation/v1/no/such", signed=signed, expect=404)
        assert reply.errcode == "M_UNRECOGNIZED"
        assert (await other.call("DELETE", VERSION, signed=signed, expect=405)).errcode == "M_UNRECOGNIZED"


async def test_clients_and_servers_have_listeners_of_their_own(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    reply = await alice.call("GET", VERSION, expect=404)
    assert reply.errcode == "M_UNRECOGNIZED"
    await other.call("GET", "/_matrix/client/versions", signed=False, expect=404)
    await server.restart(replace(server.config, federation=Federation()))
    assert (await server.client().get(VERSION))["server"]["name"] == "Weft"


async def test_without_federation_only_openid_is_left(server: Homeserver) -> None:
    await server.restart(replace(server.config, federation=Federation(enabled=False)))
    someone = server.client()
    for path in (VERSION, PROFILE, "/_matrix/key/v2/server"):
        assert (await someone.call("GET", path, expect=404)).errcode == "M_UNRECOGNIZED"
    reply = await someone.call("GET", "/_matrix/federation/v1/openid/userinfo", expect=401)
    assert reply.errcode == "M_MISSING_TOKEN"


async def test_answers_are_counted_by_route(server: Homeserver, other: OtherServer) -> None:
    await other.get(VERSION, signed=False)
    await other.call("GET", PROFILE, signed=False, expect=401)
    used = {(path, method): route.statuses for path, method, route in server.app.requests.used()}
    assert json.loads(json.dumps(used[VERSION, "GET"])) == {"200": 1}
    assert json.loads(json.dumps(used[PROFILE, "GET"])) == {"401": 1}


async def test_another_weft_asks_in_full(server: Homeserver, alice: Client, tmp_path: Any) -> None:
    second = Homeserver(tmp_path / "second")
    second.http = server.http
    await second.start()
    try:
        assert second.app.federation is not None
        answer = await second.app.federation.others.client.get(
            server.name, f"{PROFILE}?user_id={quote(alice.user_id)}"
        )
        assert answer == {"displayname": "alice"}
        answer = await second.app.federation.others.client.post(
            server.name, KEYS, {"device_keys": {alice.user_id: []}}
        )
        assert answer["device_keys"] == {alice.user_id: {}}
    finally:
        await second.stop()


async def test_who_proves_nothing_is_soon_not_looked_at(server: Homeserver, other: OtherServer) -> None:
    """HARDENING 38: before keys are asked for and signatures checked."""
    limits = RateLimits(unproven_server=Rate(0.001, 3))
    await server.restart(replace(server.config, rate_limits=limits))
    for _ in range(10):
        await other.get(PROFILE, query={"user_id": f"@nobody:{server.name}"}, expect=404)
    for _ in range(3):
        await other.call("GET", PROFILE, signed=False, expect=401)
    reply = await other.call("GET", PROFILE, signed=False, expect=429)
    assert reply.errcode == "M_LIMIT_EXCEEDED"
