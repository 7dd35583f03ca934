"""What clients learn of the server: versions, capabilities, well-known files; and OpenID tokens."""

from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from homeserver.config.options import Contact, WellKnown
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.users.openid import LIFETIME_MS
from tests.client_api.conftest import Client, Server
from tests.client_api.crypto_device import CrossSigner, CryptoDevice


async def with_options(server: Server, **sections: Any) -> None:
    await server.restart(msgspec.structs.replace(server.config, **sections))


async def test_versions_are_told_to_everybody_whatever_the_token(server: Server, alice: Client) -> None:
    someone = server.client()
    answer = await someone.get("/_matrix/client/versions")
    assert "v1.19" in answer["versions"]
    assert all(isinstance(value, bool) for value in answer["unstable_features"].values())
    assert await alice.get("/_matrix/client/versions") == answer
    someone.token = "expired"
    assert await someone.get("/_matrix/client/versions") == answer


async def test_endpoints_are_found_under_the_names_that_older_clients_call(alice: Client) -> None:
    """What Element for Android and iOS call to set up and read encrypted rooms, and to show replies."""
    old = "/_matrix/client/unstable"
    signer = CrossSigner(alice.user_id)
    await alice.post(f"{old}/keys/device_signing/upload", signer.upload())
    device = CryptoDevice(alice)
    await alice.post("/keys/upload", {"device_keys": device.device_keys()})
    signed = {alice.user_id: {alice.device_id: signer.sign_device(device.device_keys())}}
    assert await alice.post(f"{old}/keys/signatures/upload", signed) == {"failures": {}}
    backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "abc"}}
    created = await alice.post(f"{old}/room_keys/version", backup)
    assert (await alice.get(f"{old}/room_keys/version"))["version"] == created["version"]
    assert await alice.get(f"{old}/room_keys/keys", query=created) == {"rooms": {}}
    room_id = await alice.create_room()
    root = await alice.send(room_id)
    relation = {"m.relates_to": {"rel_type": "m.reference", "event_id": root}}
    reference = await alice.send(room_id, relation, "org.example")
    answer = await alice.get(f"{old}/rooms/{quote(room_id)}/relations/{quote(root)}/m.reference")
    assert [event["event_id"] for event in answer["chunk"]] == [reference]
    for version in ("r0", "unstable"):
        assert (await alice.get(f"/_matrix/client/{version}/account/whoami"))["user_id"] == alice.user_id


async def test_element_for_ios_takes_back_a_reaction(alice: Client) -> None:
    """It names no transaction."""
    room_id = await alice.create_room()
    event_id = await alice.send(room_id)
    annotation = {"rel_type": "m.annotation", "event_id": event_id, "key": "👍"}
    reaction = await alice.send(room_id, {"m.relates_to": annotation}, "m.reaction")
    path = f"/_matrix/client/r0/rooms/{quote(room_id)}/redact"
    redaction = (await alice.post(f"{path}/{quote(reaction)}", {}))["event_id"]
    told = await alice.get(f"/rooms/{quote(room_id)}/event/{quote(reaction)}")
    assert told["unsigned"]["redacted_because"]["event_id"] == redaction
    assert told["content"] == {}
    other = await alice.post(f"{path}/{quote(event_id)}", {"reason": "spam"})
    assert other["event_id"] != redaction


async def test_element_for_ios_refreshes_its_access_token(server: Server, alice: Client) -> None:
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.user_id},
        "password": "correct horse",
        "refresh_token": True,
    }
    token = (await server.client().post("/login", login))["refresh_token"]
    ios = Client(server.base, server.http, checked=False)
    again = await ios.post("/_matrix/client/v1/refresh", {"refresh_token": token})
    assert again["refresh_token"] != token


async def test_capabilities_name_what_can_be_done(alice: Client) -> None:
    capabilities = (await alice.get("/capabilities"))["capabilities"]
    assert capabilities["m.room_versions"]["default"] == "12"
    assert set(capabilities["m.room_versions"]["available"]) == set(ROOM_VERSIONS)
    assert capabilities["m.change_password"] == {"enabled": True}
    assert capabilities["m.get_login_token"] == {"enabled": True}
    assert capabilities["m.profile_fields"] == {"enabled": True}
    assert capabilities["m.forget_forced_upon_leave"] == {"enabled": False}


@pytest.mark.parametrize(("default", "knocking", "restricted"), [("12", "12", "12"), ("7", "7", "12")])
async def test_capabilities_name_the_room_versions_with_a_join_rule(
    alice: Client, server: Server, default: str, knocking: str, restricted: str
) -> None:
    """Some apps offer rooms for the members of a space only where they are told this (MSC3244)."""
    await with_options(server, rooms=msgspec.structs.replace(server.config.rooms, default_version=default))
    versions = (await alice.get("/capabilities"))["capabilities"]["m.room_versions"]
    assert versions["org.matrix.msc3244.room_capabilities"] == {
        "knock": {"preferred": knocking, "support": ["7", "8", "9", "10", "11", "12"]},
        "restricted": {"preferred": restricted, "support": ["8", "9", "10", "11", "12"]},
    }


async def test_capability_to_change_the_password_goes_with_password_login(
    alice: Client, server: Server
) -> None:
    await with_options(server, auth=msgspec.structs.replace(server.config.auth, password_login=False))
    capabilities = (await alice.get("/capabilities"))["capabilities"]
    assert capabilities["m.change_password"] == {"enabled": False}
    assert capabilities["m.get_login_token"] == {"enabled": False}


async def test_capabilities_need_an_account(server: Server) -> None:
    assert (await server.client().call("GET", "/capabilities", expect=401)).errcode == "M_MISSING_TOKEN"


async def test_well_known_client_names_the_public_url(server: Server) -> None:
    reply = await server.client().call("GET", "/.well-known/matrix/client")
    assert reply.body == {"m.homeserver": {"base_url": server.config.public_url}}
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    await with_options(server, well_known=WellKnown(identity_server="https://id.example.org"))
    body = await server.client().get("/.well-known/matrix/client")
    assert body["m.identity_server"] == {"base_url": "https://id.example.org"}


async def test_well_known_support_names_whom_to_turn_to(server: Server) -> None:
    reply = await server.client().call("GET", "/.well-known/matrix/support", expect=404)
    assert reply.errcode == "M_NOT_FOUND"
    contacts = (
        Contact("m.role.admin", "admin@example.org", "@admin:example.org"),
        Contact("m.role.security", "security@example.org"),
    )
    options = WellKnown(support_contacts=contacts, support_page="https://example.org/help")
    await with_options(server, well_known=options)
    assert await server.client().get("/.well-known/matrix/support") == {
        "contacts": [
            {"role": "m.role.admin", "email_address": "admin@example.org", "matrix_id": "@admin:example.org"},
            {"role": "m.role.security", "email_address": "security@example.org"},
        ],
        "support_page": "https://example.org/help",
    }


async def test_server_is_no_policy_server(server: Server) -> None:
    reply = await server.client().call("GET", "/.well-known/matrix/policy_server", expect=404)
    assert reply.errcode == "M_NOT_FOUND"


@pytest.mark.parametrize("path", ["v1/auth_metadata", "unstable/org.matrix.msc2965/auth_metadata"])
async def test_oauth_api_is_not_offered(server: Server, path: str) -> None:
    reply = await server.client().call("GET", f"/_matrix/client/{path}", expect=404)
    assert reply.errcode == "M_UNRECOGNIZED"


# OpenID


async def test_openid_token_tells_another_service_who_one_is(alice: Client, server: Server) -> None:
    token = await alice.post(f"/user/{alice.user_id}/openid/request_token")
    assert token["token_type"] == "Bearer"
    assert token["matrix_server_name"] == "localhost"
    assert token["expires_in"] == LIFETIME_MS // 1000
    assert await server.app.signing_in.openid.user_of(token["access_token"]) == alice.user_id
    assert await server.app.signing_in.openid.user_of("made up") is None


async def test_openid_token_is_good_for_nothing_else(alice: Client, server: Server) -> None:
    someone = server.client()
    someone.token = (await alice.post(f"/user/{alice.user_id}/openid/request_token"))["access_token"]
    assert (await someone.call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"
    assert alice.token is not None
    assert await server.app.signing_in.openid.user_of(alice.token) is None


async def test_openid_token_is_for_oneself(alice: Client, bob: Client) -> None:
    reply = await bob.call("POST", f"/user/{alice.user_id}/openid/request_token", {}, expect=403)
    assert reply.errcode == "M_FORBIDDEN"
