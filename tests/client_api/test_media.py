"""The content repository (spec: client-server "Content repository")."""

import asyncio
import io
import os
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from PIL import Image
from structlog.testing import capture_logs

from homeserver.clock import system_clock
from homeserver.media import thumbnails
from homeserver.media.files import ABANDONED_SECONDS
from tests.client_api.conftest import Client, Reply, Server

V1 = "/_matrix/client/v1/media"


def picture(width: int, height: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), "red").save(buffer, kind)
    return buffer.getvalue()


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def upload(client: Client, content: bytes, content_type: str = "image/png", name: str = "a.png") -> str:
    """Upload a file; `server/media_id`."""
    reply = await client.call(
        "POST",
        "/_matrix/media/v3/upload",
        data=content,
        query={"filename": name},
        headers={"Content-Type": content_type},
    )
    uri: str = reply.body["content_uri"]
    return uri.removeprefix("mxc://")


async def thumbnail(client: Client, where: str, **query: Any) -> Reply:
    return await client.call("GET", f"{V1}/thumbnail/{where}", query=query, expect=None)


async def test_file_comes_back_as_it_was_uploaded(alice: Client, bob: Client) -> None:
    content = bytes(range(256)) * 5000
    where = await upload(alice, content, "application/octet-stream", "ünï.bin")
    reply = await bob.call("GET", f"{V1}/download/{where}")
    assert reply.body == content
    assert reply.headers["Content-Disposition"] == "attachment; filename*=utf-8''%C3%BCn%C3%AF.bin"
    named = await bob.call("GET", f"{V1}/download/{where}/other.bin")
    assert "other.bin" in named.headers["Content-Disposition"]


async def test_a_folder_that_takes_no_files_is_the_logs_business(alice: Client, tmp_path: Path) -> None:
    media = tmp_path / "data" / "media"
    media.mkdir()
    (media / "content").write_text("a file, where the folder should be")
    with capture_logs() as logged:
        reply = await alice.call("POST", "/_matrix/media/v3/upload", data=b"tea", expect=503)
    assert reply.body["error"] == "The file cannot be stored now"
    (line,) = logged
    assert (line["event"], line["log_level"], line["folder"]) == (
        "a file cannot be stored",
        "error",
        str(media),
    )


async def test_media_needs_a_login(alice: Client, server: Server) -> None:
    where = await upload(alice, b"secret", "text/plain")
    stranger = server.client()
    reply = await stranger.call("GET", f"{V1}/download/{where}", expect=401)
    assert reply.errcode == "M_MISSING_TOKEN"
    for old in ("download", "thumbnail"):
        path = f"/_matrix/media/v3/{old}/{where}"
        await stranger.call("GET", path, query={"width": 1, "height": 1}, expect=404)


@pytest.mark.parametrize(
    ("content_type", "disposition"),
    [
        ("text/html", "attachment"),
        ("image/svg+xml", "attachment"),
        ("application/xhtml+xml", "attachment"),
        ("text/plain", "inline"),
        ("image/png", "inline"),
    ],
)
async def test_script_from_our_origin(alice: Client, content_type: str, disposition: str) -> None:
    """HARDENING 28: what a browser would run is an attachment in a sandbox, whatever it is called."""
    where = await upload(alice, b"<script>alert(1)</script>", content_type, "x.html")
    reply = await alice.call("GET", f"{V1}/download/{where}")
    assert reply.headers["Content-Disposition"].startswith(disposition)
    assert reply.headers["Content-Security-Policy"].startswith("sandbox")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


async def test_header_injection_in_type_and_name_is_inert(alice: Client) -> None:
    where = await upload(alice, b"x", "text/plain; charset=\u00e9", 'a";\r\nX-Evil: 1')
    reply = await alice.call("GET", f"{V1}/download/{where}")
    assert "X-Evil" not in reply.headers


@pytest.mark.parametrize(
    ("wanted", "size"),
    [
        ({"width": 30, "height": 30, "method": "crop"}, (32, 32)),
        ({"width": 300, "height": 200, "method": "scale"}, (320, 160)),
        ({"width": 100, "height": 100, "method": "crop"}, (128, 128)),
        ({"width": 500, "height": 500, "method": "crop"}, (512, 512)),
        ({"width": 801, "height": 100, "method": "scale"}, (1024, 512)),
        ({"width": 5000, "height": 5000}, (1600, 800)),
    ],
)
async def test_thumbnail_is_never_smaller_than_what_is_wanted(
    alice: Client, wanted: dict[str, Any], size: tuple[int, int]
) -> None:
    where = await upload(alice, picture(1600, 800))
    reply = await thumbnail(alice, where, **wanted)
    assert reply.status == 200
    assert Image.open(io.BytesIO(reply.body)).size == size
    again = await thumbnail(alice, where, **wanted)
    assert again.body == reply.body


async def test_thumbnail_never_enlarges_and_keeps_transparency(alice: Client) -> None:
    where = await upload(alice, picture(20, 10, mode="RGBA"))
    reply = await thumbnail(alice, where, width=640, height=480, method="scale")
    assert reply.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(reply.body)).size == (20, 10)


async def test_thumbnail_of_gray_in_16_bits_is_as_gray(alice: Client) -> None:
    gray = Image.new("I;16", (64, 64), 100 * 256)
    buffer = io.BytesIO()
    gray.save(buffer, "PNG")
    reply = await thumbnail(alice, await upload(alice, buffer.getvalue()), width=32, height=32)
    shown = Image.open(io.BytesIO(reply.body)).convert("L")
    assert abs(shown.getpixel((16, 16)) - 100) <= 2


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "eps"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg"),
        (picture(10, 10, "TIFF"), "tiff"),
        (picture(10, 10, "BMP"), "bmp"),
        (b"\x89PNG\r\n\x1a\n" + b"broken", "broken"),
        (b"", "empty"),
    ],
)
async def test_decoders_unexpected_formats(alice: Client, content: bytes, name: str) -> None:
    """HARDENING 25: formats off the list are refused though they are called .png."""
    where = await upload(alice, content, "image/png", f"{name}.png")
    reply = await thumbnail(alice, where, width=32, height=32)
    assert (reply.status, reply.errcode) == (400, "M_UNKNOWN")


async def test_decoders_bombs(alice: Client) -> None:
    """HARDENING 25: a picture that claims 65,000 × 65,000 pixels is not decoded; the server lives."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + crc

    header = (65_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1_000_000))
    where = await upload(alice, bomb + chunk(b"IEND", b""))
    assert (await thumbnail(alice, where, width=32, height=32)).status == 400
    good = await upload(alice, picture(100, 100))
    assert (await thumbnail(alice, good, width=32, height=32)).status == 200


class OfThreads(ThreadPoolExecutor):
    """Decodes in the test's own process."""

    _processes: ClassVar[dict[int, Any]] = {}


async def test_thumbnails_that_wait_for_others_are_made_all_the_same(
    alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: Any) -> tuple[bytes, bool]:
        time.sleep(0.2)
        return b"small", True

    monkeypatch.setattr(thumbnails, "SECONDS", 0.7)
    monkeypatch.setattr(thumbnails, "_thumbnail", slow)
    monkeypatch.setattr(thumbnails, "_new_pool", lambda: OfThreads(1))
    pictures = [await upload(alice, picture(10, 10 + number)) for number in range(6)]
    replies = await asyncio.gather(*(thumbnail(alice, where, width=32, height=32) for where in pictures))
    assert [reply.status for reply in replies] == [200] * len(pictures)


async def test_upload_beyond_the_limit_is_refused_and_leaves_no_file(server: Server) -> None:
    limits = msgspec.structs.replace(server.config.limits, max_upload_size=1000)
    await server.restart(msgspec.structs.replace(server.config, limits=limits))
    alice = await server.register("alice")
    assert (await alice.get(f"{V1}/config"))["m.upload.size"] == 1000
    await upload(alice, b"x" * 1000)

    async def endless() -> Any:
        for _ in range(100):
            yield b"y" * 100

    for data in (b"x" * 1001, endless()):
        reply = await alice.call("POST", "/_matrix/media/v3/upload", data=data, expect=413)
        assert reply.errcode == "M_TOO_LARGE"
    assert len(files_in(server.data_dir / "media")) == 1


async def test_reserved_id_is_filled_once_by_its_owner(alice: Client, bob: Client) -> None:
    uri = (await alice.post("/_matrix/media/v1/create"))["content_uri"].removeprefix("mxc://")
    early = await bob.call("GET", f"{V1}/download/{uri}", query={"timeout_ms": 0}, expect=504)
    assert early.errcode == "M_NOT_YET_UPLOADED"
    await bob.call("PUT", f"/_matrix/media/v3/upload/{uri}", data=b"mine", expect=403)
    waiting = asyncio.create_task(bob.call("GET", f"{V1}/download/{uri}", query={"timeout_ms": 10_000}))
    await asyncio.sleep(0.05)
    await alice.call("PUT", f"/_matrix/media/v3/upload/{uri}", data=b"there")
    assert (await asyncio.wait_for(waiting, 5)).body == b"there"
    again = await alice.call("PUT", f"/_matrix/media/v3/upload/{uri}", data=b"other", expect=409)
    assert again.errcode == "M_CANNOT_OVERWRITE_MEDIA"


async def test_reserved_id_of_another_server_is_not_filled_here(alice: Client) -> None:
    uri = (await alice.post("/_matrix/media/v1/create"))["content_uri"].removeprefix("mxc://")
    elsewhere = uri.replace("localhost", "elsewhere.example")
    await alice.call("PUT", f"/_matrix/media/v3/upload/{elsewhere}", data=b"x", expect=404)
    await alice.call("PUT", f"/_matrix/media/v3/upload/{uri}", data=b"x")


async def test_reserved_id_that_is_not_filled_in_time_is_free(server: Server, alice: Client) -> None:
    reserved = [await alice.post("/_matrix/media/v1/create") for _ in range(5)]
    uri = reserved[0]["content_uri"].removeprefix("mxc://")
    server.clock.ahead = max(each["unused_expires_at"] for each in reserved) - system_clock() + 1000
    await alice.call("PUT", f"/_matrix/media/v3/upload/{uri}", data=b"late", expect=404)
    await alice.call("GET", f"{V1}/download/{uri}", query={"timeout_ms": 0}, expect=404)
    # Those of the past are none of the few that one may have.
    await alice.post("/_matrix/media/v1/create")


async def test_file_that_comes_while_it_is_looked_for_is_not_waited_for(
    alice: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = (await alice.post("/_matrix/media/v1/create"))["content_uri"].removeprefix("mxc://")
    records: Any = server.app.media.repository._media
    read, fills = records.get, [True]

    async def filled_meanwhile(media_id: str) -> Any:
        media = await read(media_id)
        if fills:
            fills.pop()
            await alice.call("PUT", f"/_matrix/media/v3/upload/{where}", data=b"here")
        return media

    monkeypatch.setattr(records, "get", filled_meanwhile)
    async with asyncio.timeout(10):
        reply = await alice.call("GET", f"{V1}/download/{where}", query={"timeout_ms": 60_000})
    assert reply.body == b"here"


async def test_who_waited_in_vain_leaves_nothing_in_memory(alice: Client, server: Server) -> None:
    where = (await alice.post("/_matrix/media/v1/create"))["content_uri"].removeprefix("mxc://")
    await alice.call("GET", f"{V1}/download/{where}", query={"timeout_ms": 1}, expect=504)
    assert len(server.app.media.repository._waiting) == 0


async def test_reserved_ids_are_few_per_user(alice: Client) -> None:
    for _ in range(5):
        await alice.post("/_matrix/media/v1/create")
    reply = await alice.call("POST", "/_matrix/media/v1/create", {}, expect=429)
    assert reply.errcode == "M_LIMIT_EXCEEDED"


@pytest.mark.parametrize(
    "where",
    [
        "localhost/..%2f..%2f..%2fetc%2fpasswd",
        "localhost/%2e%2e",
        "..%2f../x",
        "localhost/x%00y",
        "localhost/" + "a" * 5000,
        "other.example/abc",
        "localhost/unknown",
    ],
)
async def test_path_traversal_in_media(alice: Client, where: str) -> None:
    """HARDENING 27: whatever the path says, only known ids are found."""
    reply = await alice.call("GET", f"{V1}/download/{where}", expect=None)
    assert reply.status in (400, 404)


async def test_what_a_crash_left_of_an_upload_is_dropped(server: Server, alice: Client) -> None:
    await upload(alice, b"whole")
    drafts = server.data_dir / "media" / "drafts"
    abandoned, growing = drafts / "abandoned", drafts / "growing"
    for draft in (abandoned, growing):
        draft.write_bytes(b"half")
    os.utime(abandoned, (time.time() - 2 * ABANDONED_SECONDS,) * 2)
    await server.restart()
    assert list(drafts.iterdir()) == [growing]


async def test_same_content_twice_is_kept_once_and_survives_a_restart(server: Server, alice: Client) -> None:
    first, second = await upload(alice, b"same"), await upload(alice, b"same")
    assert first != second
    assert len(files_in(server.data_dir / "media" / "content")) == 1
    await server.restart()
    again = server.client()
    again.token = alice.token
    assert (await again.call("GET", f"{V1}/download/{second}")).body == b"same"


async def test_no_file_of_an_unknown_upload_stays_behind(server: Server, alice: Client) -> None:
    await alice.call("PUT", "/_matrix/media/v3/upload/localhost/nothere", data=b"x", expect=404)
    assert files_in(server.data_dir / "media") == []
