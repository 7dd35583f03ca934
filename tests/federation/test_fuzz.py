"""Whatever another server asks, it gets an answer in the form of the specification, and harms nobody.

Seeded: WEFT_TEST_FUZZ_SEED picks other requests, WEFT_TEST_FUZZ_ROUNDS says how many for each route.
"""

import copy
import json
import os
import random
from io import BytesIO
from typing import Any

import orjson
from PIL import Image
from structlog.testing import capture_logs

from homeserver.errors import MatrixError
from rest.bodies import json_object
from tests.client_api.conftest import Client
from tests.client_api.crypto_device import CryptoDevice
from tests.client_api.hostile import Asker, Hostile
from tests.client_api.hostile_values import VALUES, WORDS
from tests.client_api.test_media import upload
from tests.federation.remote_user import RemoteUser
from tests.federation.servers import Homeserver, OtherServer
from tests.federation.visitor import Visitor

SEED = int(os.environ.get("WEFT_TEST_FUZZ_SEED", "1"))
ROUNDS = int(os.environ.get("WEFT_TEST_FUZZ_ROUNDS", "40"))


async def world(server: Homeserver, other: OtherServer, alice: Client) -> Asker:
    """What there is to ask about."""
    room_id = await alice.create_room(
        preset="public_chat", room_alias_name="home", creation_content={"type": "m.space"}
    )
    await Visitor(server, other).member(room_id, "join")
    sent = [await alice.send(room_id, str(n)) for n in range(5)]
    device = CryptoDevice(alice)
    await device.upload(one_time=5)
    image = BytesIO()
    Image.new("RGB", (40, 30), "red").save(image, "PNG")
    names = {
        "text": ["text", "1"],
        "room_id": [room_id],
        "event_id": sent,
        "v": sent,
        "alias": [f"#home:{server.name}"],
        "room_alias": [f"#home:{server.name}"],
        "user_id": [alice.user_id],
        "device_id": [alice.device_id],
        "media_id": [(await upload(alice, image.getvalue())).partition("/")[2]],
        "server_name": [other.name, server.name],
        "query_type": ["profile", "directory"],
        "limit": ["10"],
        "ts": ["0"],
        "dir": ["f", "b"],
        "width": ["10"],
        "height": ["10"],
    }
    return Asker(names, {}, {})


def signed_content(body: bytes | None) -> Any:
    """The content to sign for a body, as far as it has any."""
    try:
        return orjson.loads(body) if body else None
    except ValueError:
        return None


async def test_no_request_brings_a_server_error_or_another_form_of_answer(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    asker = await world(server, other, alice)
    hostile = Hostile(SEED)
    routes = [route for module in server.app.federation_modules for route, _ in module.routes()]
    statuses: set[int] = set()
    with capture_logs() as logged:
        for route in routes * ROUNDS:
            request = hostile.request(route, asker)
            content = signed_content(request.body)
            try:
                signature = other.signature(request.method, request.path, content)
            except (ValueError, TypeError):
                continue  # No server can sign this.
            reply = await other.call(
                request.method,
                request.path,
                content,
                sent=request.body,
                header=signature["Authorization"],
                expect=None,
            )
            assert reply.status < 500 or reply.errcode == "M_NOT_YET_UPLOADED", f"{request}: {reply}"
            if reply.status >= 400:
                assert set(reply.body) >= {"errcode", "error"}, f"{request}: {reply}"
            statuses.add(reply.status)
    assert [entry for entry in logged if entry["log_level"] in ("error", "critical")] == []
    # They came far enough to be answered, and not all of them.
    assert statuses >= {200, 400, 404}
    await alice.send((await alice.get("/joined_rooms"))["joined_rooms"][0], "goes on")


def spoiled(rng: random.Random, content: Any) -> Any:
    """A copy of an object of which something is another value, or has another name."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, member in inner:
            places.append((value, key))
            if isinstance(member, (dict, list)):
                walk(member)

    result = copy.deepcopy(content)
    walk(result)
    holder, key = rng.choice(places)
    if isinstance(holder, dict) and rng.random() < 0.3:
        holder[rng.choice(WORDS)] = holder.pop(key)
    else:
        holder[key] = rng.choice((*VALUES, *WORDS))
    return result


async def test_no_edu_does_harm(server: Homeserver, other: OtherServer, alice: Client) -> None:
    """HARDENING 5."""
    room_id = await alice.create_room(preset="public_chat")
    visitor = Visitor(server, other)
    await visitor.member(room_id, "join")
    event_id = await alice.send(room_id)
    remote = RemoteUser(server, other)
    device = remote.add("PHONE")
    await alice.post("/keys/query", {"device_keys": {visitor.user_id: []}})
    own = {"user_id": visitor.user_id}
    receipt = {"event_ids": [event_id], "data": {"ts": 1, "thread_id": "main"}}
    signed = remote.cross_sign().upload()
    contents = {
        "m.typing": {"room_id": room_id, **own, "typing": True},
        "m.receipt": {room_id: {"m.read": {visitor.user_id: receipt}}},
        "m.presence": {"push": [{**own, "presence": "online", "last_active_ago": 1, "status_msg": "x"}]},
        "m.direct_to_device": {
            "sender": visitor.user_id,
            "type": "m.test",
            "message_id": "m",
            "messages": {alice.user_id: {alice.device_id: {"a": 1}, "*": {"a": 2}}},
        },
        "m.device_list_update": {
            **own,
            "device_id": "PHONE",
            "stream_id": 11,
            "prev_id": [10],
            "keys": device,
            "device_display_name": "x",
        },
        "m.signing_key_update": {
            **own,
            "master_key": signed["master_key"],
            "self_signing_key": signed["self_signing_key"],
        },
    }
    rng = random.Random(SEED)
    assert server.app.federation is not None
    edus = server.app.federation.edus
    with capture_logs() as logged:
        for edu_type, content in tuple(contents.items()) * ROUNDS:
            sent = json.dumps({"edu_type": edu_type, "content": spoiled(rng, content)})
            try:
                edu = json_object(sent.encode())
            except MatrixError:
                continue  # It is not let in.
            await edus.receive(other.name, edu)
            await alice.sync()
    assert [entry for entry in logged if entry["log_level"] in ("error", "critical")] == []
    assert set(edus.dropped) == set(contents)
    # Some were none the worse for it.
    assert min(edus.dropped.values()) < ROUNDS
    await alice.send(room_id, "goes on")
    await alice.sync(full=True)
