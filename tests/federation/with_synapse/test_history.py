"""Messages and files of the other server, old ones too."""

from io import BytesIO
from typing import Any
from urllib.parse import quote, unquote

from PIL import Image

from tests.client_api.conftest import Client
from tests.client_api.test_media import picture, thumbnail, upload
from tests.federation.rooms import events
from tests.federation.with_synapse.sides import Sides, join, shows, talk, until


async def test_messages_are_redacted_on_the_other_side(sides: Sides, room_id: str) -> None:
    for author, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        said = await author.send(room_id, f"oops {author.user_id}")
        await shows(other, room_id, f"oops {author.user_id}")
        await author.redact(room_id, said)

        async def redacted(other: Client = other, said: str = said) -> bool:
            shown = await other.get(f"/rooms/{quote(room_id)}/event/{quote(said)}")
            return shown["content"] == {}

        await until(redacted, f"{other.user_id} does not see it any more")


async def test_history_from_before_the_join_is_the_same_on_both(sides: Sides) -> None:
    room_id = await sides.host.create_room(preset="public_chat", name="before")
    for number in range(30):
        await sides.host.send(room_id, f"{number}")
        await sides.host.set_state(room_id, "m.room.topic", {"topic": f"{number}"})
    await join(sides.guest, room_id, sides.host_name)
    path = f"/rooms/{quote(room_id)}/messages"
    found: list[Any] = []
    token: str | None = None
    while not found or token:
        asked = {"dir": "b", "limit": "20"} | ({"from": token} if token else {})
        page = await sides.guest.get(path, query=asked)
        found += page["chunk"]
        token = page.get("end")
    shown = [event["event_id"] for event in await events(sides.host, room_id)]
    assert [event["event_id"] for event in found][::-1] == shown
    assert found[-1]["type"] == "m.room.create"


async def test_history_from_before_the_join_is_read(sides: Sides) -> None:
    room_id = await sides.host.create_room(preset="public_chat")
    said = [f"before {number}" for number in range(120)]
    for body in said:
        await sides.host.send(room_id, body)
    await join(sides.guest, room_id, sides.host_name)
    await talk(sides, room_id)

    async def read() -> bool:
        found: list[str] = []
        start = ""
        for _ in range(40):
            query = {"dir": "b", "limit": "50", **({"from": start} if start else {})}
            page = await sides.guest.get(f"/rooms/{quote(room_id)}/messages", query=query)
            found += [event["content"].get("body", event["type"]) for event in page["chunk"]]
            start = page.get("end", "")
            if not start or "m.room.create" in found:
                break
        assert "m.room.create" in found
        return [body for body in found[::-1] if body.startswith("before")] == said

    # Synapse fetches some of it after it has answered.
    await until(read, "the history is there")


async def test_files_are_shared_with_the_other_server(sides: Sides) -> None:
    content = bytes(range(256)) * 2000
    where = await upload(sides.host, content, "application/octet-stream", "ünï.bin")
    reply = await sides.guest.call("GET", f"/_matrix/client/v1/media/download/{where}")
    assert reply.body == content
    assert "ünï.bin" in unquote(reply.headers["Content-Disposition"])
    small = await thumbnail(sides.guest, await upload(sides.host, picture(300, 200)), width=32, height=32)
    assert (small.status, small.headers["Content-Type"].partition("/")[0]) == (200, "image")


async def test_pictures_are_seen_on_the_other_side(sides: Sides, room_id: str) -> None:
    png = BytesIO()
    Image.new("RGB", (640, 480), "teal").save(png, "PNG")
    for owner, other in ((sides.host, sides.guest), (sides.guest, sides.host)):
        reply = await owner.call(
            "POST", "/_matrix/media/v3/upload", data=png.getvalue(), headers={"Content-Type": "image/png"}
        )
        path = reply.body["content_uri"].removeprefix("mxc://")
        media = "/_matrix/client/v1/media"
        shown = await other.call("GET", f"{media}/download/{path}")
        assert shown.body == png.getvalue()
        assert shown.headers["Content-Type"] == "image/png"
        small = await other.call(
            "GET", f"{media}/thumbnail/{path}", query={"width": "96", "height": "96", "method": "crop"}
        )
        assert 0 < len(small.body) < 100_000
