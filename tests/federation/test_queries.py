"""Version, keys, profiles, aliases, the directory, spaces and OpenID, as other servers ask for them."""

from urllib.parse import quote

import aiohttp
import pytest
from msgspec.structs import replace

from homeserver import __version__
from homeserver.config.options import Rate, RateLimits
from homeserver.protocol.signing import verify_json_signature
from tests.client_api.conftest import Client
from tests.client_api.test_account import proof
from tests.federation.servers import V1, Homeserver, OtherServer, another
from tests.federation.visitor import Visitor
from tests.federation_transport.network import Internet

SERVER_KEYS = "/_matrix/key/v2"


async def test_anybody_learns_what_runs_here(other: OtherServer) -> None:
    assert await other.get(f"{V1}/version", signed=False) == {
        "server": {"name": "Weft", "version": __version__}
    }


# Keys of servers


async def test_the_own_key_is_published_signed_by_itself(server: Homeserver, other: OtherServer) -> None:
    answer = await other.get(f"{SERVER_KEYS}/server", signed=False)
    assert answer["server_name"] == server.name
    ((key_id, key),) = answer["verify_keys"].items()
    verify_json_signature(answer, server.name, key_id, key["key"])


async def test_a_notary_passes_keys_on_under_both_signatures(server: Homeserver, other: OtherServer) -> None:
    own = await other.get(f"{SERVER_KEYS}/server", signed=False)
    ((own_id, own_key),) = own["verify_keys"].items()
    one = await other.get(f"{SERVER_KEYS}/query/{other.name}", signed=False)
    several = await other.post(
        f"{SERVER_KEYS}/query", {"server_keys": {other.name: {}, server.name: {}}}, signed=False
    )
    (passed_on,) = one["server_keys"]
    assert {keys["server_name"] for keys in several["server_keys"]} == {other.name, server.name}
    key = other.peer.key
    verify_json_signature(passed_on, other.name, key.key_id, key.verify_key_base64)
    verify_json_signature(passed_on, server.name, own_id, own_key["key"])


async def test_a_notary_has_nothing_to_say_of_servers_that_do_not_answer(other: OtherServer) -> None:
    other.peer.fail()
    assert await other.get(f"{SERVER_KEYS}/query/{other.name}", signed=False) == {"server_keys": []}
    assert await other.get(f"{SERVER_KEYS}/query/no%20name", signed=False) == {"server_keys": []}
    await other.call("POST", f"{SERVER_KEYS}/query", {}, signed=False, expect=400)
    await other.call(
        "GET", f"{SERVER_KEYS}/query/{other.name}?minimum_valid_until_ts=soon", signed=False, expect=400
    )


async def test_a_notary_asks_no_crowd_of_servers_for_somebody_who_proves_nothing(
    server: Homeserver, other: OtherServer
) -> None:
    """HARDENING 38: nor does what is known already cost anything."""
    limits = RateLimits(unproven_server=Rate(0.001, 5))
    await server.restart(replace(server.config, rate_limits=limits))
    query = f"{SERVER_KEYS}/query"
    for _ in range(10):
        await other.get(f"{query}/{other.name}", signed=False)
    crowd = {f"server{number}.test": {} for number in range(3)}
    await other.post(query, {"server_keys": crowd}, signed=False)
    crowd = {f"another{number}.test": {} for number in range(3)}
    reply = await other.call("POST", query, {"server_keys": crowd}, signed=False, expect=429)
    assert reply.errcode == "M_LIMIT_EXCEEDED"
    await other.get(f"{query}/{other.name}", signed=False)


# Profiles and aliases


async def test_profiles_of_own_users_are_told_whole_or_by_field(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    url = "mxc://example.org/picture"
    await alice.put(f"/profile/{alice.user_id}/avatar_url", {"avatar_url": url})
    query = {"user_id": alice.user_id}
    path = f"{V1}/query/profile"
    assert await other.get(path, query=query) == {"displayname": "alice", "avatar_url": url}
    assert await other.get(path, query={**query, "field": "avatar_url"}) == {"avatar_url": url}
    for user_id, field in (
        (alice.user_id, "m.tz"),
        (f"@nobody:{server.name}", ""),
        (f"@alice:{other.name}", ""),
    ):
        asked = {"user_id": user_id, **({"field": field} if field else {})}
        assert (await other.call("GET", path, query=asked, expect=404)).errcode == "M_NOT_FOUND"
    await other.call("GET", path, query={"user_id": "alice"}, expect=400)


async def test_aliases_lead_to_rooms(server: Homeserver, other: OtherServer, alice: Client) -> None:
    room_id = await alice.create_room(room_alias_name="home")
    path = f"{V1}/query/directory"
    answer = await other.get(path, query={"room_alias": f"#home:{server.name}"})
    assert answer == {"room_id": room_id, "servers": [server.name]}
    await other.call("GET", path, query={"room_alias": f"#gone:{server.name}"}, expect=404)
    await other.call("GET", path, query={"room_alias": "home"}, expect=400)
    await other.call("GET", path, expect=400)


async def test_other_queries_are_not_known(other: OtherServer) -> None:
    assert (await other.call("GET", f"{V1}/query/weather", expect=404)).errcode == "M_NOT_FOUND"


# The directory


async def test_the_directory_is_shown_when_the_configuration_says_so(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    room_id = await alice.create_room(visibility="public", preset="public_chat", name="Weaving")
    await alice.create_room(visibility="public", preset="public_chat", name="Sewing")
    path = f"{V1}/publicRooms"
    assert (await other.call("GET", path, expect=403)).errcode == "M_FORBIDDEN"
    assert (await other.call("POST", path, {}, expect=403)).errcode == "M_FORBIDDEN"
    rooms = replace(server.config.rooms, directory_for_servers=True)
    await server.restart(replace(server.config, rooms=rooms))
    everything = await other.get(path)
    assert {room["name"] for room in everything["chunk"]} == {"Weaving", "Sewing"}
    first = await other.get(path, query={"limit": "1"})
    second = await other.get(path, query={"limit": "1", "since": first["next_batch"]})
    assert [*first["chunk"], *second["chunk"]] == everything["chunk"]
    found = await other.post(path, {"filter": {"generic_search_term": "weav"}})
    assert [room["room_id"] for room in found["chunk"]] == [room_id]
    await other.call("POST", path, {"limit": "many"}, expect=400)


# Spaces


async def space(client: Client, *children: str, **options: object) -> str:
    root = await client.create_room(creation_content={"type": "m.space"}, **options)
    for child in children:
        await client.set_state(root, "m.space.child", {"via": ["example.org"]}, child)
    return root


async def test_a_space_shows_what_others_might_join(other: OtherServer, alice: Client) -> None:
    public = await alice.create_room(preset="public_chat", name="public")
    private = await alice.create_room(preset="private_chat")
    suggested = await alice.create_room(preset="public_chat")
    elsewhere = f"!elsewhere:{other.name}"
    root = await space(alice, public, private, elsewhere, preset="public_chat")
    await alice.set_state(root, "m.space.child", {"via": ["example.org"], "suggested": True}, suggested)
    path = f"{V1}/hierarchy/{quote(root)}"
    answer = await other.get(path)
    assert answer["room"]["room_id"] == root
    named = {child["state_key"] for child in answer["room"]["children_state"]}
    assert named == {public, private, suggested, elsewhere}
    assert {room["room_id"] for room in answer["children"]} == {public, suggested}
    assert answer["inaccessible_children"] == [private]
    answer = await other.get(path, query={"suggested_only": "true"})
    assert [room["room_id"] for room in answer["children"]] == [suggested]


@pytest.mark.parametrize("rule", ["public", "knock"])
async def test_a_room_that_bans_a_server_is_none_to_it(
    server: Homeserver,
    other: OtherServer,
    alice: Client,
    internet: Internet,
    http: aiohttp.ClientSession,
    rule: str,
) -> None:
    root = await space(alice, preset="public_chat")
    await alice.set_state(root, "m.room.join_rules", {"join_rule": rule})
    path = f"{V1}/hierarchy/{quote(root)}"
    await other.get(path)
    await alice.set_state(root, "m.room.server_acl", {"allow": ["*"], "deny": [other.name]})
    assert (await other.call("GET", path, expect=404)).errcode == "M_NOT_FOUND"
    await (await another(internet, server, http)).get(path)


async def test_a_private_space_is_not_there_for_others(other: OtherServer, alice: Client) -> None:
    root = await space(alice, preset="private_chat")
    await other.call("GET", f"{V1}/hierarchy/{quote(root)}", expect=404)
    await other.call("GET", f"{V1}/hierarchy/{quote('!no:such')}", expect=404)
    await alice.set_state(root, "m.room.history_visibility", {"history_visibility": "world_readable"})
    await other.get(f"{V1}/hierarchy/{quote(root)}")


async def test_members_see_what_is_closed_to_others(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    club = await alice.create_room(preset="public_chat")
    allow = [{"type": "m.room_membership", "room_id": club}]
    restricted = await alice.create_room(
        initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "restricted", "allow": allow}}]
    )
    visitor = Visitor(server, other)
    root = await space(alice, restricted, preset="public_chat")
    await visitor.member(root, "join")
    await alice.set_state(root, "m.room.join_rules", {"join_rule": "invite"})
    path = f"{V1}/hierarchy/{quote(root)}"
    assert (await other.get(path))["inaccessible_children"] == [restricted]
    await visitor.member(club, "join")
    answer = await other.get(path)
    assert [room["room_id"] for room in answer["children"]] == [restricted]
    assert answer["children"][0]["allowed_room_ids"] == [club]
    await visitor.member(root, "leave")
    await other.call("GET", path, expect=404)


# OpenID


async def test_a_token_says_who_its_user_is(other: OtherServer, alice: Client) -> None:
    token = (await alice.post(f"/user/{alice.user_id}/openid/request_token"))["access_token"]
    path = f"{V1}/openid/userinfo"
    assert await other.get(path, query={"access_token": token}, signed=False) == {"sub": alice.user_id}
    for wrong in ("wrong", alice.token or ""):
        reply = await other.call("GET", path, query={"access_token": wrong}, signed=False, expect=401)
        assert reply.errcode == "M_UNKNOWN_TOKEN"
    assert (await other.call("GET", path, signed=False, expect=401)).errcode == "M_MISSING_TOKEN"


async def test_nobody_is_told_of_a_user_whose_account_has_ended(other: OtherServer, alice: Client) -> None:
    token = (await alice.post(f"/user/{alice.user_id}/openid/request_token"))["access_token"]
    await alice.post("/account/deactivate", {"auth": proof(alice)})
    reply = await other.call(
        "GET", f"{V1}/openid/userinfo", query={"access_token": token}, signed=False, expect=401
    )
    assert reply.errcode == "M_UNKNOWN_TOKEN"


# What the configuration adds


async def test_the_well_known_file_says_where_others_reach_this_server(server: Homeserver) -> None:
    reply = await server.client().call("GET", "/.well-known/matrix/server", expect=404)
    assert reply.errcode == "M_NOT_FOUND"
    well_known = replace(server.config.well_known, server="matrix.example.org:443")
    await server.restart(replace(server.config, well_known=well_known))
    answer = await server.client().get("/.well-known/matrix/server")
    assert answer == {"m.server": "matrix.example.org:443"}
