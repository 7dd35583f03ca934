"""What is somebody's stays theirs, whatever path leads to it (HARDENING 20).

Everything private in a room and an account carries a mark. Every route that there is is then asked by
those who have no business there, with the right ids, and with the right ids under the wrong room: a
route that is added is asked too. The objects are authorised, not the paths.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import msgspec
import pytest

from client_api.http import Auth, Route
from tests.client_api.conftest import Client, Server
from tests.client_api.hostile import PARAMETER, specified

MARK = "s3cret"
V3 = "/_matrix/client/v3"
V1 = "/_matrix/client/v1"
OUTSIDERS = ("ex-member", "outsider", "guest", "nobody")


class Scene(NamedTuple):
    """A room of alice's that bob has left before anything private was in it; what ids there are."""

    server: Server
    alice: Client
    others: Mapping[str, Client]
    ids: Mapping[str, str]
    elsewhere: str
    """A room that the outsider is in, and alice is not."""


@pytest.fixture
async def scene(server: Server, alice: Client, bob: Client, carol: Client) -> Scene:
    guest = server.client()
    body = await guest.post("/register?kind=guest", {})
    guest.token, guest.user_id, guest.device_id = body["access_token"], body["user_id"], body["device_id"]
    room = await alice.create_room(preset="private_chat", invite=[bob.user_id])
    await bob.join(room)
    before = (await alice.sync(full=True))["next_batch"]
    await bob.leave(room)

    await alice.set_state(room, "m.room.name", {"name": MARK})
    await alice.set_state(room, "org.example.state", {"private": MARK}, "key")
    root = await alice.send(room, MARK)
    thread = {"rel_type": "m.thread", "event_id": root}
    await alice.send(room, {"msgtype": "m.text", "body": MARK, "m.relates_to": thread})
    mine = f"/user/{quote(alice.user_id)}"
    await alice.put(f"{mine}/account_data/org.example.private", {"private": MARK})
    await alice.put(f"{mine}/rooms/{quote(room)}/account_data/org.example.private", {"private": MARK})
    await alice.put(f"{mine}/rooms/{quote(room)}/tags/u.{MARK}", {})
    await alice.put("/pushrules/global/content/private", {"actions": ["notify"], "pattern": MARK})
    await alice.put(f"/devices/{alice.device_id}", {"display_name": MARK})
    await alice.put(f"/presence/{quote(alice.user_id)}/status", {"presence": "online", "status_msg": MARK})
    filter_id = (await alice.post(f"{mine}/filter", {"event_fields": [MARK]}))["filter_id"]
    backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": MARK}}
    version = (await alice.post("/room_keys/version", backup))["version"]
    session = {
        "first_message_index": 0,
        "forwarded_count": 0,
        "is_verified": True,
        "session_data": {"private": MARK},
    }
    await alice.put(f"/room_keys/keys/{quote(room)}/session?version={version}", session)
    for consumer in server.app.ground.consumers:
        await consumer.settled(0)
    sync = await alice.sync(full=True)
    ids = {
        "room_id": room,
        "room_id_or_alias": room,
        "event_id": root,
        "user_id": alice.user_id,
        "device_id": alice.device_id,
        "filter_id": filter_id,
        "version": version,
        "session_id": "session",
        "event_type": "org.example.state",
        "state_key": "key",
        "type": "org.example.private",
        "tag": f"u.{MARK}",
        "kind": "content",
        "rule_id": "private",
        "rel_type": "m.thread",
        "key": "displayname",
        "alias": "#none:localhost",
        "since": before,
        "from": sync["next_batch"],
        "to": sync["next_batch"],
        "dir": "b",
        "limit": "100",
        "ts": "99999999999999",
        "server_name": "localhost",
        "media_id": "none",
    }
    others = {"ex-member": bob, "outsider": carol, "guest": guest, "nobody": server.client()}
    return Scene(server, alice, others, ids, await carol.create_room(preset="public_chat"))


def routes(server: Server, *methods: str) -> list[Route]:
    found = [declared for module in server.app.modules for declared, _ in module.routes()]
    return [route for route in found if route.method in methods]


def path_of(route: Route, ids: Mapping[str, str]) -> str:
    return PARAMETER.sub(lambda name: quote(ids.get(name[1], "text"), safe=""), route.path)


def queries_of(route: Route, ids: Mapping[str, str]) -> Iterable[str]:
    """Next to none, and all parameters that the scene has a value for; nobody waits for news."""
    yield "?timeout=0"
    known = {name: ids[name] for name in specified(route).query if name in ids} | {"timeout": "0"}
    yield "?" + urlencode(known)
    yield "?" + urlencode({name: value for name, value in known.items() if name != "from"})


def told(body: Any) -> bool:
    """Whether the mark is in an answer."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return MARK.encode() in raw


SEEN_BY_OWNER = {
    f"{V3}/sync",
    f"{V3}/devices",
    f"{V3}/devices/{{device_id}}",
    f"{V3}/initialSync",
    f"{V3}/presence/{{user_id}}/status",
    f"{V3}/pushrules/",
    f"{V3}/pushrules/global/",
    f"{V3}/pushrules/global/{{kind}}/{{rule_id}}",
    f"{V3}/room_keys/keys",
    f"{V3}/room_keys/keys/{{room_id}}",
    f"{V3}/room_keys/keys/{{room_id}}/{{session_id}}",
    f"{V3}/room_keys/version",
    f"{V3}/room_keys/version/{{version}}",
    f"{V3}/rooms/{{room_id}}/context/{{event_id}}",
    f"{V3}/rooms/{{room_id}}/event/{{event_id}}",
    f"{V3}/events/{{event_id}}",
    f"{V3}/rooms/{{room_id}}/initialSync",
    f"{V3}/rooms/{{room_id}}/messages",
    f"{V3}/rooms/{{room_id}}/state",
    f"{V3}/rooms/{{room_id}}/state/{{event_type}}/{{state_key}}",
    f"{V1}/rooms/{{room_id}}/hierarchy",
    f"{V1}/rooms/{{room_id}}/relations/{{event_id}}",
    f"{V1}/rooms/{{room_id}}/relations/{{event_id}}/{{rel_type}}",
    f"{V1}/rooms/{{room_id}}/threads",
    f"{V1}/room_summary/{{room_id_or_alias}}",
    f"{V3}/user/{{user_id}}/account_data/{{type}}",
    f"{V3}/user/{{user_id}}/filter/{{filter_id}}",
    f"{V3}/user/{{user_id}}/rooms/{{room_id}}/account_data/{{type}}",
    f"{V3}/user/{{user_id}}/rooms/{{room_id}}/tags",
}
"""Where alice finds the mark: so there is something to hide, and it is nowhere else."""


async def test_owner_finds_what_the_others_must_not(scene: Scene) -> None:
    found = set()
    for route in routes(scene.server, "GET"):
        for query in queries_of(route, scene.ids):
            reply = await scene.alice.call("GET", path_of(route, scene.ids) + query, expect=None)
            if reply.status == 200 and told(reply.body):
                found.add(PARAMETER.sub(r"{\1}", route.path))
    assert {path for path in found if "/unstable/" not in path} == SEEN_BY_OWNER


@pytest.mark.parametrize("who", OUTSIDERS)
async def test_no_get_tells_others_what_is_private(scene: Scene, who: str) -> None:
    asker = scene.others[who]
    wrong_room = {**scene.ids, "room_id": scene.elsewhere, "room_id_or_alias": scene.elsewhere}
    for route in routes(scene.server, "GET"):
        for ids in (scene.ids, wrong_room, {**scene.ids, "user_id": asker.user_id or "@none:localhost"}):
            for query in queries_of(route, ids):
                reply = await asker.call("GET", path_of(route, ids) + query, expect=None)
                assert not told(reply.body), f"{who}: GET {route.path} {query}: {reply.body!r}"
                if who == "nobody" and route.options.get("auth") not in (Auth.NONE, Auth.OPTIONAL):
                    assert (reply.status, reply.errcode) == (401, "M_MISSING_TOKEN"), route.path


@pytest.mark.parametrize("who", ["ex-member", "outsider"])
async def test_no_post_that_reads_tells_others_what_is_private(scene: Scene, who: str) -> None:
    asker, room = scene.others[who], scene.ids["room_id"]
    subscription = {"timeline_limit": 20, "required_state": [["*", "*"]]}
    extensions = {name: {"enabled": True} for name in ("account_data", "receipts", "typing", "e2ee")}
    for path, body in (
        (f"{V3}/publicRooms", {"filter": {"generic_search_term": MARK}}),
        (f"{V3}/user_directory/search", {"search_term": MARK}),
        (
            "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
            {
                "lists": {"all": {"ranges": [[0, 9]], **subscription}},
                "room_subscriptions": {room: subscription},
                "extensions": extensions,
            },
        ),
    ):
        reply = await asker.call("POST", path, body, expect=None)
        assert not told(reply.body), f"{who}: POST {path}: {reply.body!r}"


@pytest.mark.parametrize("who", ["ex-member", "outsider"])
@pytest.mark.parametrize("order", ["rank", "recent"])
async def test_search_counts_nothing_that_the_asker_may_not_see(scene: Scene, who: str, order: str) -> None:
    """Otherwise words could be tried until one counts."""
    for wanted in ({}, {"rooms": [scene.ids["room_id"]]}):
        criteria = {"search_term": MARK, "order_by": order, "filter": {**wanted, "limit": 1}}
        body = {"search_categories": {"room_events": criteria}}
        answer = (await scene.others[who].post("/search", body))["search_categories"]["room_events"]
        assert (answer["count"], answer["results"], answer.get("next_batch")) == (0, [], None)
    mine = (await scene.alice.post("/search", body))["search_categories"]["room_events"]
    assert mine["count"] > 1
    assert "next_batch" in mine


async def picture(scene: Scene) -> Any:
    """All that alice has, as she sees it."""
    alice, shown = scene.alice, {}
    mine = f"/user/{quote(alice.user_id)}"
    for path in (
        "/devices",
        "/account/whoami",
        f"/profile/{quote(alice.user_id)}",
        "/pushrules/",
        "/pushers",
        f"{mine}/filter/{scene.ids['filter_id']}",
        "/room_keys/version",
        f"/room_keys/keys?version={scene.ids['version']}",
        f"/directory/list/room/{quote(scene.ids['room_id'])}",
        f"/rooms/{quote(scene.ids['room_id'])}/aliases",
    ):
        shown[path] = await alice.get(path)
    for device in shown["/devices"]["devices"]:
        device.pop("last_seen_ts", None)
    state = f"/rooms/{quote(scene.ids['room_id'])}/state"
    shown[state] = [event["event_id"] for event in await alice.get(state)]
    news = await alice.sync(filter={"presence": {"types": []}})
    shown["/sync"] = {name: value for name, value in news.items() if name != "next_batch"}
    return shown


def with_ids(value: Any, ids: Mapping[str, str]) -> Any:
    """An example with the identifiers of the scene in place of its own."""
    if isinstance(value, dict):
        return {with_ids(key, ids): with_ids(inner, ids) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_ids(inner, ids) for inner in value]
    if isinstance(value, str):
        return ids.get({"@": "user_id", "!": "room_id", "$": "event_id"}.get(value[:1], ""), value)
    return value


MAY_REACH_OTHERS = {f"{V3}/sendToDevice/{{event_type}}/{{txn_id}}"}
"""Anybody may send to anybody's devices."""


@pytest.mark.parametrize("who", OUTSIDERS)
async def test_no_request_of_others_changes_what_is_alices(scene: Scene, who: str) -> None:
    asker = scene.others[who]
    await picture(scene)
    before = await picture(scene)
    own, again = asker.user_id or "@none:localhost", 0
    for route in routes(scene.server, "PUT", "POST", "DELETE"):
        if route.path in MAY_REACH_OTHERS:
            continue
        for ids in (scene.ids, {**scene.ids, "user_id": own}):
            path = path_of(route, ids) + "?" + urlencode({"version": scene.ids["version"]})
            # Invitations and the like are for the asker: what may be sent to alice is another matter.
            body = with_ids(specified(route).body or {}, {**ids, "user_id": own})
            reply = await asker.call(route.method, path, body, expect=None)
            assert reply.status < 500
            if reply.errcode == "M_UNKNOWN_TOKEN" and asker.token is not None:
                again += 1
                asker = await scene.server.register(f"{who}{again}")
                own = asker.user_id
    assert await picture(scene) == before
