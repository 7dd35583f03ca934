"""Identity servers that refuse, fail, or say what makes no sense."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from msgspec.structs import replace

from homeserver.config.options import Egress, Identity
from homeserver.identity import bindings
from storage.records.accounts import BINDINGS
from tests.client_api.conftest import Client
from tests.client_api.test_account import proof, settle
from tests.client_api.test_rate_limits import limit
from tests.federation.rooms import members
from tests.federation.servers import PORT, Homeserver
from tests.federation_transport.network import Internet, Site, new_address

API = "/_matrix/identity/v2"
HASHES = {"lookup_pepper": "matrixrocks", "algorithms": ["none", "sha256"]}
ALICE_HASHED = "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc"
"""As the specification has it."""
KEY = {"public_key": "K" * 43, "key_validity_url": "https://id.example.org/valid"}
STORED = {"token": "t", "display_name": "a...@e...", "public_keys": [KEY]}


class Scene:
    """A room of bob's, and an identity server that says what the test wants."""

    def __init__(self, bob: Client, room_id: str, site: Site) -> None:
        self.bob = bob
        self.room_id = room_id
        self.site = site
        self.name = f"{site.address}:{site.port}"
        self.says("/hash_details", HASHES)
        self.says("/lookup", {"mappings": {}})
        self.says("/store-invite", STORED)

    def says(self, path: str, body: Any, status: int = 200) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        self.site.answer(API + path, text, status, Content_Type="application/json")

    def asked(self, path: str) -> list[Any]:
        """What was sent there."""
        return [json.loads(seen.body) for seen in self.site.seen if seen.target == API + path]

    async def invite(self, expect: int = 200, **changes: str) -> Any:
        body = {
            "id_server": self.name,
            "id_access_token": "bobs",
            "medium": "email",
            "address": "alice@example.com",
            **changes,
        }
        path = f"/rooms/{quote(self.room_id)}/invite"
        return (await self.bob.call("POST", path, body, expect=expect)).body

    async def nothing_happened(self) -> None:
        state = await self.bob.get(f"/rooms/{quote(self.room_id)}/state")
        assert "m.room.third_party_invite" not in {event["type"] for event in state}
        assert list(await members(self.bob, self.room_id)) == [self.bob.user_id]


@pytest.fixture
async def site(internet: Internet) -> Site:
    address = new_address()
    return await internet.site(address, port=PORT, address=address)


@pytest.fixture
async def scene(server: Homeserver, bob: Client, site: Site) -> Scene:
    await server.restart(replace(server.config, identity=Identity((f"{site.address}:{site.port}",))))
    return Scene(bob, await bob.create_room(), site)


async def test_an_address_is_looked_up_by_its_hash(scene: Scene, alice: Client) -> None:
    scene.says("/lookup", {"mappings": {ALICE_HASHED: alice.user_id}})
    await scene.invite(address="Alice@EXAMPLE.com")
    assert (await members(scene.bob, scene.room_id))[alice.user_id] == "invite"
    wanted = {"algorithm": "sha256", "pepper": "matrixrocks", "addresses": [ALICE_HASHED]}
    assert scene.asked("/lookup") == [wanted]
    assert {seen.headers["Authorization"] for seen in scene.site.seen} == {"Bearer bobs"}


async def test_a_telephone_number_is_looked_up_without_its_plus(scene: Scene, alice: Client) -> None:
    scene.says("/lookup", {"mappings": {"nlo35_T5fzSGZzJApqu8lgIudJvmOQtDaHtr-I4rU7I": alice.user_id}})
    await scene.invite(medium="msisdn", address="+18005552067")
    assert (await members(scene.bob, scene.room_id))[alice.user_id] == "invite"


async def test_who_knows_no_hashes_is_asked_in_the_clear(scene: Scene, alice: Client) -> None:
    scene.says("/hash_details", {**HASHES, "algorithms": ["none"]})
    scene.says("/lookup", {"mappings": {"alice@example.com email": alice.user_id}})
    await scene.invite()
    assert (await members(scene.bob, scene.room_id))[alice.user_id] == "invite"


async def test_a_pepper_that_has_changed_is_asked_for_again(scene: Scene, alice: Client) -> None:
    peppers = iter(("old", "matrixrocks"))

    async def details(_: web.BaseRequest) -> web.Response:
        return web.json_response({**HASHES, "lookup_pepper": next(peppers)})

    async def look_up(request: web.BaseRequest) -> web.Response:
        if json.loads(await request.read())["pepper"] == "old":
            return web.json_response({"errcode": "M_INVALID_PEPPER", "error": "rotated"}, status=400)
        return web.json_response({"mappings": {ALICE_HASHED: alice.user_id}})

    scene.site.pages.update({f"{API}/hash_details": details, f"{API}/lookup": look_up})
    await scene.invite()
    assert (await members(scene.bob, scene.room_id))[alice.user_id] == "invite"


async def test_a_pepper_that_is_never_right_is_asked_for_twice(scene: Scene) -> None:
    scene.says("/lookup", {"errcode": "M_INVALID_PEPPER", "error": "rotated"}, 400)
    assert (await scene.invite(400))["errcode"] == "M_INVALID_PEPPER"
    assert len(scene.asked("/lookup")) == 2


@pytest.mark.parametrize(
    ("status", "said", "told"),
    [
        (403, "M_TERMS_NOT_SIGNED", (403, "M_TERMS_NOT_SIGNED")),
        (401, "M_UNAUTHORIZED", (403, "M_UNAUTHORIZED")),
        (401, "M_UNKNOWN_TOKEN", (403, "M_UNAUTHORIZED")),
        (400, "M_THREEPID_IN_USE", (400, "M_THREEPID_IN_USE")),
        (500, "M_UNKNOWN", (502, "M_UNKNOWN")),
    ],
)
async def test_what_it_refuses_is_told_but_logs_nobody_out(
    scene: Scene, status: int, said: str, told: tuple[int, str]
) -> None:
    for path in ("/store-invite", "/hash_details"):
        scene.says(path, {"errcode": said, "error": "Terms of reality"}, status)
        answer = await scene.invite(told[0])
        assert answer["errcode"] == told[1]
        assert told[0] == 502 or "Terms of reality" in answer["error"]
    await scene.nothing_happened()
    await scene.bob.get("/account/whoami")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/hash_details", "<html>"),
        ("/hash_details", []),
        ("/hash_details", {}),
        ("/hash_details", {"lookup_pepper": 1, "algorithms": ["sha256"]}),
        ("/lookup", {"mappings": []}),
        ("/lookup", {"mappings": {ALICE_HASHED: "alice"}}),
        ("/lookup", {"mappings": {ALICE_HASHED: None}}),
        ("/lookup", {"mappings": {}, "padding": "x" * 100_000}),
        ("/store-invite", {}),
        ("/store-invite", {**STORED, "token": "@bob:example.org"}),
        ("/store-invite", {**STORED, "token": ""}),
        ("/store-invite", {**STORED, "display_name": None}),
        ("/store-invite", {**STORED, "public_keys": []}),
        ("/store-invite", {**STORED, "public_keys": [{"public_key": "K"}]}),
        ("/store-invite", {**STORED, "public_keys": [KEY] * 1000}),
    ],
)
async def test_what_makes_no_sense_does_nothing(scene: Scene, path: str, said: Any) -> None:
    scene.says(path, said)
    assert (await scene.invite(502))["errcode"] == "M_UNKNOWN"
    await scene.nothing_happened()


async def test_silence_ends_in_an_error(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("homeserver.identity.servers.SECONDS", 0.1)
    scene.site.pages[f"{API}/lookup"] = silent
    assert (await scene.invite(502))["errcode"] == "M_UNKNOWN"


@pytest.mark.parametrize(
    ("changes", "errcode"),
    [
        ({"id_server": "another.example.org"}, "M_SERVER_NOT_TRUSTED"),
        ({"id_server": "another.example.org/?"}, "M_SERVER_NOT_TRUSTED"),
        ({"id_access_token": "a\r\nX-Admin: b"}, "M_INVALID_PARAM"),
        ({"id_access_token": ""}, "M_INVALID_PARAM"),
        ({"address": "Alice <alice@example.com>"}, "M_INVALID_PARAM"),
        ({"address": "alice"}, "M_INVALID_PARAM"),
        ({"address": f"{'ß' * 251}@example.com"}, "M_INVALID_PARAM"),
        ({"medium": "msisdn"}, "M_INVALID_PARAM"),
        ({"medium": "msisdn", "address": "١٢٣٤٥"}, "M_INVALID_PARAM"),
        ({"medium": "fax", "address": "1"}, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
    ],
)
async def test_what_cannot_be_asked_for_is_not(scene: Scene, changes: dict[str, str], errcode: str) -> None:
    assert (await scene.invite(400, **changes))["errcode"] == errcode
    assert scene.site.seen == []


async def test_a_trusted_name_leads_no_further_in_than_others(
    scene: Scene, server: Homeserver, bob: Client
) -> None:
    """Its address is what counts, like everybody's."""
    egress = Egress(ca=server.config.egress.ca)
    await server.restart(replace(server.config, egress=egress))
    assert (await scene.invite(502))["errcode"] == "M_UNKNOWN"
    assert scene.site.seen == []


async def test_many_invites_by_address_are_as_many_invites(scene: Scene, server: Homeserver) -> None:
    """HARDENING 38."""
    await limit(server, invite=2)
    for _ in range(2):
        await scene.invite()
    asked = len(scene.site.seen)
    assert (await scene.invite(429))["errcode"] == "M_LIMIT_EXCEEDED"
    assert len(scene.site.seen) == asked


# Publishing addresses

BOUND = {"medium": "email", "address": "bob@example.org", "mxid": "@bob", "signatures": {}}
ADDRESS = {"medium": "email", "address": "bob@example.org"}


async def bind(scene: Scene, expect: int = 200) -> Any:
    body = {"id_server": scene.name, "id_access_token": "bobs", "sid": "1", "client_secret": "secret"}
    return (await scene.bob.call("POST", "/account/3pid/bind", body, expect=expect)).body


async def unbind(scene: Scene, expect: int = 200, **more: str) -> Any:
    return (await scene.bob.call("POST", "/account/3pid/unbind", {**ADDRESS, **more}, expect=expect)).body


NO_SUPPORT = {"id_server_unbind_result": "no-support"}
DONE = {"id_server_unbind_result": "success"}


async def test_an_address_is_published_by_the_users_own_token_and_taken_back_by_signature(
    scene: Scene, server: Homeserver
) -> None:
    scene.says("/3pid/bind", BOUND)
    scene.says("/3pid/unbind", {})
    await bind(scene)
    session = {"sid": "1", "client_secret": "secret", "mxid": scene.bob.user_id}
    assert scene.asked("/3pid/bind") == [session]
    assert await unbind(scene) == DONE
    assert scene.asked("/3pid/unbind") == [{"mxid": scene.bob.user_id, "threepid": ADDRESS}]
    bearer, signed = [seen.headers["Authorization"] for seen in scene.site.seen]
    assert bearer == "Bearer bobs"
    assert signed.startswith(f'X-Matrix origin="{server.name}"')
    assert await unbind(scene) == NO_SUPPORT


@pytest.mark.parametrize("status", [400, 404, 501])
async def test_whoever_cannot_take_an_address_back_says_so(scene: Scene, status: int) -> None:
    for said in ("<html>", {"errcode": "M_UNRECOGNIZED", "error": "?"})[: 1 if status == 501 else 2]:
        scene.says("/3pid/unbind", said, status)
        assert await unbind(scene, id_server=scene.name) == NO_SUPPORT


async def test_what_an_identity_server_says_of_an_address_is_told(scene: Scene) -> None:
    scene.says("/3pid/bind", {"errcode": "M_SESSION_NOT_VALIDATED", "error": "no"}, 400)
    assert (await bind(scene, 400))["errcode"] == "M_SESSION_NOT_VALIDATED"
    scene.says("/3pid/unbind", {"errcode": "M_FORBIDDEN", "error": "no"}, 403)
    assert (await unbind(scene, 403, id_server=scene.name))["errcode"] == "M_FORBIDDEN"
    scene.says("/3pid/bind", {**BOUND, "address": "bob"})
    await bind(scene, 502)
    assert await unbind(scene) == NO_SUPPORT


async def test_an_identity_server_that_is_not_trusted_is_not_asked(scene: Scene) -> None:
    assert await unbind(scene, id_server="another.example.org") == NO_SUPPORT
    assert scene.site.seen == []


async def test_a_user_has_so_many_addresses_and_no_more(scene: Scene) -> None:
    """HARDENING 14."""
    for number in range(100):
        scene.says("/3pid/bind", {**BOUND, "address": f"bob{number}@example.org"})
        await bind(scene)
    assert (await bind(scene, 400))["errcode"] == "M_INVALID_PARAM"
    assert len(scene.asked("/3pid/bind")) == 100


async def test_an_account_ends_whatever_identity_servers_do(scene: Scene, server: Homeserver) -> None:
    scene.says("/3pid/bind", BOUND)
    await bind(scene)
    scene.says("/3pid/unbind", {"errcode": "M_UNKNOWN", "error": "no"}, 500)
    answer = await scene.bob.post("/account/deactivate", {"auth": proof(scene.bob)})
    assert answer == NO_SUPPORT
    await settle(server)
    assert await server.app.ground.collection(BINDINGS).find("key") == []


async def test_an_account_ends_while_an_identity_server_thinks(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.says("/3pid/bind", BOUND)
    await bind(scene)
    go_on, done = asyncio.Event(), asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.Response:
        await go_on.wait()
        done.set()
        return web.json_response({})

    scene.site.pages[f"{API}/3pid/unbind"] = slow
    monkeypatch.setattr(bindings, "PATIENCE_SECONDS", 0.1)
    async with asyncio.timeout(5):
        answer = await scene.bob.post("/account/deactivate", {"auth": proof(scene.bob)})
    assert answer == NO_SUPPORT
    go_on.set()
    async with asyncio.timeout(5):
        await done.wait()
