"""Files of other servers' users, as clients of this one get them (HARDENING 7, 11, 25 to 28)."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from msgspec.structs import replace

from federation.multipart import InvalidParts, Parts, boundary_of
from homeserver.config.options import Rate
from homeserver.config.units import Size
from tests.client_api.conftest import Client, Reply
from tests.client_api.test_media import V1, files_in, picture, thumbnail, upload
from tests.federation.servers import Homeserver, OtherServer, another
from tests.federation_transport.network import Internet

FEDERATION = "/_matrix/federation/v1/media/download"
BOUNDARY = "between"


def parts(content: bytes, *headers: str, boundary: str = BOUNDARY) -> bytes:
    """The body of an answer: what is said, and the file."""
    described = "".join(f"{header}\r\n" for header in headers).encode()
    mark = boundary.encode()
    return (
        b"--%b\r\nContent-Type: application/json\r\n\r\n{}\r\n" % mark
        + b"--%b\r\n%b\r\n%b\r\n--%b--\r\n" % (mark, described, content, mark)
    )


def give(other: OtherServer, media_id: str, content: bytes, *headers: str) -> None:
    """Have another server give a file."""
    other.peer.site.answer(
        f"{FEDERATION}/{media_id}",
        parts(content, *headers),
        Content_Type=f'multipart/mixed; boundary="{BOUNDARY}"',
    )


async def download(client: Client, server: str, media_id: str) -> Reply:
    return await client.call("GET", f"{V1}/download/{server}/{media_id}", expect=None)


def asked(other: OtherServer) -> int:
    """How often a server was asked for files."""
    return sum("/media/" in seen.target for seen in other.peer.site.seen)


def copies(server: Homeserver) -> list[Path]:
    return files_in(Path(server.config.media.path) / "remote" / "content")


async def test_a_file_of_another_server_is_shown_and_kept(
    server: Homeserver, second: Homeserver, alice: Client
) -> None:
    carol = await second.register("carol")
    content = random.Random(1).randbytes(900_000)
    _, media_id = (await upload(carol, content, "text/html", "ünï.html")).split("/")
    for _ in range(2):
        reply = await download(alice, second.name, media_id)
        assert reply.body == content
        assert reply.headers["Content-Type"] == "text/html"
        assert reply.headers["Content-Disposition"] == "attachment; filename*=utf-8''%C3%BCn%C3%AF.html"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in reply.headers["Content-Security-Policy"]
        await second.stop()
    await second.start()


async def test_a_picture_of_another_server_has_thumbnails(
    server: Homeserver, second: Homeserver, alice: Client
) -> None:
    carol = await second.register("carol")
    where = await upload(carol, picture(800, 600))
    small = await thumbnail(alice, where, width=32, height=32, method="crop")
    assert (small.status, small.headers["Content-Type"]) == (200, "image/jpeg")
    text = await thumbnail(alice, await upload(carol, b"no picture"), width=32, height=32)
    assert (text.status, text.errcode) == (400, "M_UNKNOWN")


async def test_strangers_have_nothing_fetched(server: Homeserver, other: OtherServer, alice: Client) -> None:
    """HARDENING 26."""
    give(other, "m1", b"content", "Content-Type: text/plain")
    stranger = server.client()
    assert (await download(stranger, other.name, "m1")).status == 401
    for path in ("/_matrix/media/v3/download", "/_matrix/media/v3/thumbnail"):
        await stranger.call("GET", f"{path}/{other.name}/m1", query={"width": 9, "height": 9}, expect=404)
    assert asked(other) == 0


async def test_many_who_ask_at_once_have_it_fetched_once(other: OtherServer, alice: Client) -> None:
    give(other, "m1", b"content", "Content-Type: text/plain")
    replies = await asyncio.gather(*(download(alice, other.name, "m1") for _ in range(8)))
    assert {reply.body for reply in replies} == {b"content"}
    assert asked(other) == 1


async def test_names_of_files_lead_nowhere_else(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    for media_id in ("..%2F..%2Fsigning.key", "a%00b", "%2Fetc%2Fpasswd", "%C3%BC", "a" * 300, "."):
        assert (await download(alice, other.name, media_id)).status == 404, media_id
    for name in ("..", "a%2F..%2Fb", "%00", "localhost:99999999", "%C3%BC", "a" * 300, server.name):
        assert (await download(alice, name, "m1")).status in (404, 502), name
    assert asked(other) == 0
    assert copies(server) == []


async def test_what_is_not_there_is_not_asked_for_again_at_once(other: OtherServer, alice: Client) -> None:
    """HARDENING 26."""
    other.peer.site.answer(
        f"{FEDERATION}/gone", '{"errcode":"M_NOT_FOUND","error":"?"}', 404, Content_Type="application/json"
    )
    for _ in range(3):
        assert (await download(alice, other.name, "gone")).errcode == "M_NOT_FOUND"
    assert asked(other) == 1
    other.peer.site.answer(
        f"{FEDERATION}/late",
        '{"errcode":"M_NOT_YET_UPLOADED","error":"?"}',
        504,
        Content_Type="application/json",
    )
    for _ in range(2):
        reply = await download(alice, other.name, "late")
        assert (reply.status, reply.errcode) == (504, "M_NOT_YET_UPLOADED")
    assert asked(other) == 3, "a file that is still to come is asked for again, and so is its server"
    give(other, "late", b"now", "Content-Type: text/plain")
    assert (await download(alice, other.name, "late")).body == b"now"


async def test_a_server_that_is_away_is_a_bad_gateway(other: OtherServer, alice: Client) -> None:
    reply = await download(alice, "127.1.255.254:1", "m1")
    assert (reply.status, reply.errcode) == (502, "M_UNKNOWN")


async def test_a_file_may_lie_on_the_web(other: OtherServer, internet: Internet, alice: Client) -> None:
    web_server = await internet.site(other.name, port=0)
    where = f"https://{web_server.address}:{web_server.port}"
    web_server.answer(
        "/file", b"on the web", Content_Type="image/png", Content_Disposition="inline; filename=a"
    )
    web_server.redirect("/further", f"{where}/file")
    give(other, "there", b"", f"Location: {where}/file?signed=yes")
    reply = await download(alice, other.name, "there")
    assert reply.body == b"on the web"
    assert reply.headers["Content-Type"] == "image/png"
    assert reply.headers["Content-Disposition"] == "inline; filename*=utf-8''a"
    assert "Authorization" not in web_server.seen[0].headers
    unencrypted = await asyncio.get_running_loop().create_server(
        web.Server(web_server.handle), web_server.address, 0
    )
    port = unencrypted.sockets[0].getsockname()[1]
    for n, location in enumerate(
        (
            f"{where}/further",
            f"{where}/none",
            f"http://{web_server.address}:{port}/file",
            "/file",
            "https://[",
            "file:///",
        )
    ):
        give(other, f"bad{n}", b"", f"Location: {location}")
        assert (await download(alice, other.name, f"bad{n}")).status == 502, location
    unencrypted.close()


async def test_a_server_of_before_is_asked_as_before(other: OtherServer, alice: Client) -> None:
    other.peer.site.answer(f"/_matrix/media/v3/download/{other.name}/old", b"old", Content_Type="text/plain")
    assert (await download(alice, other.name, "old")).body == b"old"
    assert other.peer.site.seen[-1].target.endswith("?allow_remote=false")


async def test_files_that_are_too_large_are_not_taken_in(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    await server.restart(
        replace(server.config, limits=replace(server.config.limits, max_upload_size=Size(1000)))
    )
    sent = 0

    async def flood(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        response.content_type = f"multipart/mixed; boundary={BOUNDARY}"
        await response.prepare(request)
        await response.write(parts(b"")[:-30])
        while sent < 100_000_000:
            await response.write(bytes(65536))
            sent += 65536
        return response

    other.peer.site.pages[f"{FEDERATION}/flood"] = flood
    give(other, "larger", bytes(1001))
    give(other, "just", bytes(1000))
    for media_id in ("flood", "larger"):
        reply = await download(alice, other.name, media_id)
        assert (reply.status, reply.errcode) == (502, "M_TOO_LARGE"), media_id
    assert sent < 50_000_000
    assert (await download(alice, other.name, "just")).body == bytes(1000)
    assert len(copies(server)) == 1
    assert files_in(Path(server.config.media.path) / "remote" / "drafts") == []


async def test_answers_that_are_no_files(server: Homeserver, other: OtherServer, alice: Client) -> None:
    site = other.peer.site
    mixed = f"multipart/mixed; boundary={BOUNDARY}"
    whole = parts(b"content", "Content-Type: text/plain")
    for n, (content_type, body) in enumerate(
        (
            ("application/json", b"{}"),
            ("multipart/mixed", whole),
            (f"multipart/mixed; boundary={'b' * 100}", whole),
            (mixed, b""),
            (mixed, whole[:-30]),
            (mixed, b"--between\r\n\r\n{}\r\n--between--\r\n"),
            (mixed, b"--between\r\n" + b"a: b\r\n" * 10_000 + b"\r\n"),
        )
    ):
        site.answer(f"{FEDERATION}/bad{n}", body, Content_Type=content_type)
        reply = await download(alice, other.name, f"bad{n}")
        assert (reply.status, reply.errcode) == (502, "M_UNKNOWN"), (content_type, body[:50])
    assert copies(server) == []


async def test_copies_stay_below_their_ceiling(
    server: Homeserver, internet: Internet, other: OtherServer, alice: Client
) -> None:
    """HARDENING 26."""
    await server.restart(
        replace(server.config, media=replace(server.config.media, remote_cache=Size(10_000)))
    )
    own = await upload(alice, bytes(20_000), "text/plain")
    for n in range(8):
        give(other, f"m{n}", bytes([n]) * 3000, "Content-Type: text/plain")
        assert (await download(alice, other.name, f"m{n}")).status == 200
        assert sum(path.stat().st_size for path in copies(server)) <= 10_000
    before = asked(other)
    assert (await download(alice, other.name, "m7")).body == bytes([7]) * 3000
    assert asked(other) == before, "the newest copies are still there"
    assert (await download(alice, other.name, "m0")).body == bytes(3000)
    assert asked(other) == before + 1
    await server.restart(server.config)
    third = await another(internet, server, other._http)
    give(third, "same", bytes(3000), "Content-Type: text/plain")
    assert (await download(alice, third.name, "same")).body == bytes(3000)
    assert sum(path.stat().st_size for path in copies(server)) <= 10_000
    assert len((await download(alice, *own.split("/"))).body) == 20_000, "what was uploaded is never removed"


async def test_a_copy_that_was_removed_is_fetched_again(
    server: Homeserver, other: OtherServer, alice: Client
) -> None:
    give(other, "m1", b"content", "Content-Type: text/plain")
    for _ in range(2):
        assert (await download(alice, other.name, "m1")).body == b"content"
        for path in copies(server):
            path.unlink()


@pytest.mark.parametrize("seed", range(20))
async def test_parts_are_read_however_they_are_cut(seed: int) -> None:
    rng = random.Random(seed)
    boundary = "".join(rng.choices("ab-", k=rng.randint(1, 5))) + "x"
    content = bytes(rng.choices(b"\r\n-abx", k=rng.randint(0, 300)))
    if f"\r\n--{boundary}".encode() in b"\r\n" + content:
        content = b""
    body = b"before\r\n" * rng.randint(0, 2) + parts(content, "X-Header: y", boundary=boundary)

    async def pieces(whole: bytes) -> AsyncIterator[bytes]:
        while whole:
            length = rng.choice((1, 2, 7, 100))
            yield whole[:length]
            whole = whole[length:]

    read = Parts(pieces(body), boundary_of(f'multipart/mixed; boundary="{boundary}"'))
    await read.next()
    assert (await read.next())["X-Header"] == "y"
    assert b"".join([piece async for piece in read.content()]) == content
    with pytest.raises(InvalidParts):
        await read.next()


async def test_who_has_fetched_much_waits_and_others_do_not(
    server: Homeserver, alice: Client, bob: Client, other: OtherServer
) -> None:
    """HARDENING 26."""
    await server.stop()
    budget = replace(server.config.rate_limits, enabled=True, remote_media=Rate(0.1, 300))
    server.config = replace(server.config, rate_limits=budget)
    await server.start()
    alice._base = bob._base = server.base
    for n in range(4):
        give(other, f"file{n}", bytes(250 * 1024))
    for n in range(2):
        # What is there in part is not cut off.
        assert (await download(alice, other.name, f"file{n}")).status == 200
    refused = await download(alice, other.name, "file2")
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert (await download(alice, other.name, "file0")).status == 200
    assert (await download(bob, other.name, "file2")).status == 200
    assert (await download(alice, other.name, "file2")).status == 200
    assert asked(other) == 3
