"""What is sent below HTTP's good manners (HARDENING 11, 12, 37): floods, bombs, dawdlers, smuggled requests.

The tests speak raw sockets: a client library would not say such things.
"""

import asyncio
import gzip
import json
import re
import resource
import socket
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from rest import bodies, connections
from tests.client_api.conftest import Client, Server
from tests.server_process import ServerProcess

VERSIONS = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE = 5.0


class Wire:
    """A connection; what goes over it is up to the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        async with asyncio.timeout(PATIENCE):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await self._reader.readexactly(int(length[1])) if length else b""
        return int(head.split(b" ", 2)[1]), body

    async def rest(self) -> bytes:
        """All that comes until the server hangs up."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""


@asynccontextmanager
async def wire(server: Server) -> AsyncIterator[Wire]:
    parts = urlsplit(server.base)
    assert parts.hostname is not None
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def put(client: Client, type: str, headers: str, body: bytes = b"") -> bytes:
    """A request that stores account data; whether it was carried out can be looked up."""
    head = (
        f"PUT /_matrix/client/v3/user/{client.user_id}/account_data/{type} HTTP/1.1\r\n"
        f"Host: localhost\r\nAuthorization: Bearer {client.token}\r\n{headers}\r\n"
    )
    return head.encode() + body


async def stored(client: Client, type: str) -> bool:
    reply = await client.call("GET", f"/user/{client.user_id}/account_data/{type}", expect=None)
    return reply.status == 200


# --- Dawdling


async def test_headers_that_never_end_are_hung_up_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.3)
    await server.restart()
    async with wire(server) as slow:
        await slow.send(b"GET /_matrix/client/versions HTTP/1.1\r\n")
        for number in range(3):
            await asyncio.sleep(0.05)
            await slow.send(f"X-{number}: 1\r\n".encode())
        assert await slow.rest() == b""


async def test_connection_without_a_request_is_hung_up_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.3)
    await server.restart()
    async with wire(server) as silent:
        assert await silent.rest() == b""
    async with wire(server) as once:
        await once.send(VERSIONS)
        assert (await once.answer())[0] == 200
        assert await once.rest() == b""


async def test_waiting_poll_is_not_idle(
    server: Server, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.2)
    await server.restart()
    await alice.sync(full=True)
    poll = asyncio.create_task(alice.sync(timeout=10_000))
    await asyncio.sleep(0.6)
    await alice.put(f"/user/{alice.user_id}/account_data/org.example", {"a": 1})
    assert (await poll)["account_data"]["events"][0]["type"] == "org.example"


async def test_body_that_does_not_come_is_not_waited_for(
    server: Server, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    async with wire(server) as slow:
        await slow.send(put(alice, "org.example", "Content-Length: 10\r\n", b'{"a"'))
        status, body = await slow.answer()
    assert status == 408
    assert b'"errcode"' in body
    assert not await stored(alice, "org.example")


async def test_upload_that_stops_coming_is_given_up(
    server: Server, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    head = f"POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\n"
    async with wire(server) as slow:
        await slow.send(head.encode() + b"Content-Length: 1000\r\n\r\nstart")
        assert (await slow.answer())[0] == 408
    async with wire(server) as steady:
        await steady.send(head.encode() + b"Content-Length: 6\r\n\r\n")
        for _ in range(6):
            await asyncio.sleep(0.06)
            await steady.send(b"x")
        assert (await steady.answer())[0] == 200


async def test_many_dawdlers_stop_nobody(server: Server, alice: Client) -> None:
    async def dawdle(arrived: asyncio.Semaphore) -> None:
        async with wire(server) as slow:
            await slow.send(b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: x\r\nContent-Le")
            arrived.release()
            await asyncio.Event().wait()

    arrived = asyncio.Semaphore(0)
    dawdlers = [asyncio.create_task(dawdle(arrived)) for _ in range(300)]
    for _ in dawdlers:
        await arrived.acquire()
    async with asyncio.timeout(PATIENCE):
        room_id = await alice.create_room()
        await alice.send(room_id)
        assert room_id in (await alice.sync(full=True))["rooms"]["join"]
    for dawdler in dawdlers:
        dawdler.cancel()
    await asyncio.gather(*dawdlers, return_exceptions=True)


async def test_vanishing_in_the_middle_of_a_body_is_nobodys_error(server: Server, alice: Client) -> None:
    with capture_logs() as logged:
        for framing, part in (("Content-Length: 10", b'{"a"'), ("Transfer-Encoding: chunked", b"5\r\n{}")):
            async with wire(server) as gone:
                await gone.send(put(alice, "org.example", framing + "\r\n", part))
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.1)
        assert not await stored(alice, "org.example")
    assert [entry for entry in logged if entry["log_level"] == "error"] == []


async def test_body_that_is_held_back_is_asked_for(server: Server, alice: Client) -> None:
    async with wire(server) as waiting:
        await waiting.send(put(alice, "org.example", "Content-Length: 7\r\nExpect: 100-continue\r\n"))
        assert await waiting.answer() == (100, b"")
        await waiting.send(b'{"a":1}')
        assert (await waiting.answer())[0] == 200
    assert await stored(alice, "org.example")


# --- Too much


async def test_body_that_is_announced_too_large_is_refused_unread(server: Server, alice: Client) -> None:
    async with wire(server) as large:
        await large.send(put(alice, "org.example", "Content-Length: 10000000000\r\n"))
        status, body = await large.answer()
    assert (status, b"M_TOO_LARGE" in body) == (413, True)


async def test_chunked_body_without_end_is_cut_off(server: Server, alice: Client) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    most = server.config.limits.max_body_size
    async with wire(server) as endless:
        await endless.send(put(alice, "org.example", "Transfer-Encoding: chunked\r\n"))
        answer = asyncio.create_task(endless.answer())
        sent = 0
        while not answer.done() and sent < 10 * most:
            await endless.send(chunk)
            sent += 0x10000
            await asyncio.sleep(0)
        status, body = await answer
    assert (status, b"M_TOO_LARGE" in body) == (413, True)
    assert sent < 10 * most


async def test_multipart_is_not_json(alice: Client) -> None:
    parts = b"".join(
        b"--x\r\nContent-Disposition: form-data; name=%d\r\n\r\n{}\r\n" % number for number in range(10_000)
    )
    reply = await alice.call(
        "PUT",
        f"/user/{alice.user_id}/account_data/org.example",
        data=parts + b"--x--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
        expect=400,
    )
    assert reply.errcode == "M_NOT_JSON"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "GZIP", "x-unknown"])
async def test_body_in_a_content_coding_is_refused_and_not_inflated(alice: Client, coding: str) -> None:
    """Ten megabytes of spaces around an object are ten kilobytes on the wire."""
    plain = b"{" + b" " * 10_000_000 + b"}"
    for method, path in (
        ("PUT", f"/user/{alice.user_id}/account_data/org.example"),
        ("POST", "/login"),
        ("POST", "/_matrix/media/v3/upload"),
        ("GET", "/sync"),
    ):
        packed = zlib.compress(plain) if coding == "deflate" else gzip.compress(plain)
        reply = await alice.call(method, path, data=packed, headers={"Content-Encoding": coding}, expect=415)
        assert reply.errcode == "M_UNKNOWN"
    assert not await stored(alice, "org.example")


async def test_identity_is_no_coding(alice: Client) -> None:
    path = f"/user/{alice.user_id}/account_data/org.example"
    await alice.call("PUT", path, {"a": 1}, headers={"Content-Encoding": "identity"})
    assert await alice.get(path) == {"a": 1}


TOO_LONG = (431, "M_TOO_LARGE")
MALFORMED = (400, "M_UNKNOWN")


@pytest.mark.parametrize(
    ("head", "refused"),
    [
        (b"GET /_matrix/client/versions?" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", TOO_LONG),
        (b"GET /_matrix/client/versions HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", TOO_LONG),
        (b"GET /_matrix/client/versions HTTP/1.1\r\n" + b"X: 1\r\n" * 5000 + b"\r\n", MALFORMED),
        (b"GET /_matrix/client/versions HTTP/1.1\r\n" + b"a" * 1_000_000, TOO_LONG),
        (b"A" * 1_000_000, MALFORMED),
    ],
    ids=["line", "header", "headers", "header without end", "method without end"],
)
async def test_headers_beyond_bounds_are_refused(
    server: Server, head: bytes, refused: tuple[int, str]
) -> None:
    async with wire(server) as verbose:
        await verbose.send(head)
        status, body = await verbose.answer()
        assert (status, json.loads(body)["errcode"]) == refused
        assert b"aaa" not in body
    async with wire(server) as usual:
        await usual.send(VERSIONS)
        assert (await usual.answer())[0] == 200


async def test_since_token_of_a_store_with_many_shards_fits_into_the_address(server: Server) -> None:
    async with wire(server) as usual:
        await usual.send(b"GET /_matrix/client/versions?" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await usual.answer())[0] == 200


# --- Pipelines and smuggling


async def test_pipelined_requests_are_answered_in_order(server: Server, alice: Client) -> None:
    count = 500
    requests = [
        put(alice, f"org.example.{number}", "Content-Length: 2\r\n", b"{}")
        if number % 2
        else f"GET /none/{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        for number in range(count)
    ]
    async with wire(server) as pipe:
        sending = asyncio.create_task(pipe.send(b"".join(requests)))
        statuses = [(await pipe.answer())[0] for _ in range(count)]
        await sending
    assert statuses == [404, 200] * (count // 2)


SMUGGLED = [
    "Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n",
    "Content-Length: 0\r\nContent-Length: {length}\r\n",
    "Content-Length: {length}\r\nContent-Length: 0\r\n",
    "Content-Length: 0, {length}\r\n",
    "Content-Length: +{length}\r\n",
    "Content-Length: -1\r\n",
    "Content-Length: 0x10\r\n",
    "Content-Length: {length}_0\r\n",
    "Content-Length: {length} 1\r\n",
    "Content-Length:\r\n",
    "Content-Length : 0\r\n",
    "Transfer-Encoding: xchunked\r\n",
    "Transfer-Encoding: chunked, identity\r\n",
    "Transfer-Encoding: identity, chunked, chunked\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding:\x0bchunked\r\n",
    "X: 1\r\n Transfer-Encoding: chunked\r\n",
    "X: 1\nTransfer-Encoding: chunked\r\n",
    "X: \x00\r\n",
    "X\x00: 1\r\n",
    ": 1\r\n",
    "no colon\r\n",
]
"""Framings on which servers and proxies have disagreed; `length` covers all that follows."""


@pytest.mark.parametrize("framing", SMUGGLED)
async def test_request_whose_end_can_be_argued_about_is_refused(
    server: Server, alice: Client, framing: str
) -> None:
    """One answer, an error, and the end: nothing that follows is taken for a request."""
    second = put(alice, "org.example.second", "Content-Length: 2\r\n", b"{}")
    body = b"0\r\n\r\n" + second
    first = put(alice, "org.example.first", framing.format(length=len(body)), body)
    async with wire(server) as sly:
        await sly.send(first)
        answers = await sly.rest()
    assert re.findall(rb"HTTP/1.[01] (\d\d\d)", answers) == [b"400"]
    assert not await stored(alice, "org.example.first")
    assert not await stored(alice, "org.example.second")


@pytest.mark.parametrize(
    "chunks", [b"zz\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"2\r\n{}x", b"+2\r\n{}\r\n0\r\n\r\n"]
)
async def test_malformed_chunks_store_nothing(server: Server, alice: Client, chunks: bytes) -> None:
    second = put(alice, "org.example.second", "Content-Length: 2\r\n", b"{}")
    with capture_logs() as logged:
        async with wire(server) as broken:
            await broken.send(
                put(alice, "org.example.first", "Transfer-Encoding: chunked\r\n", chunks + second)
            )
            answers = await broken.rest()
    assert re.findall(rb"HTTP/1.[01] (\d\d\d)", answers) == [b"400"]
    assert not await stored(alice, "org.example.first")
    assert not await stored(alice, "org.example.second")
    assert [entry for entry in logged if entry["log_level"] == "error"] == []


@pytest.mark.parametrize(
    "junk",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x00" * 1000 + b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_not_logged_as_our_error(
    server: Server, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with wire(server) as odd:
        await odd.send(junk)
        answers = await odd.rest()
    assert re.findall(rb"HTTP/1.[01] (\d\d\d)", answers) == [b"400"]
    head, _, body = answers.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in head
    assert json.loads(body)["errcode"] == "M_UNKNOWN"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


# --- Many connections


def ask_for_versions(connection: socket.socket) -> bool:
    connection.sendall(VERSIONS)
    answer = b""
    while b'"versions"' not in answer:
        more = connection.recv(65536)
        if not more:
            return False
        answer += more
    return answer.startswith(b"HTTP/1.1 200 ")


def test_more_connections_than_descriptors_harm_nobody_who_is_connected(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path)
    process.start()
    try:
        most = len(list(Path(f"/proc/{process.pid}/fd").iterdir())) + 20
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most, most))
        address = ("127.0.0.1", process.port)
        with closing(socket.create_connection(address, PATIENCE)) as early:
            assert ask_for_versions(early)
            crowd = [socket.create_connection(address, PATIENCE) for _ in range(60)]
            assert ask_for_versions(early)
            for connection in crowd:
                connection.close()
        deadline = time.monotonic() + PATIENCE
        while not served_anew(address):
            assert time.monotonic() < deadline, "the server takes no connections though the crowd is gone"
    finally:
        assert process.stop() == 0


def served_anew(address: tuple[str, int]) -> bool:
    """Whether a new connection is taken; while the last of the crowd leave it may be cut."""
    try:
        with closing(socket.create_connection(address, PATIENCE)) as late:
            return ask_for_versions(late)
    except ConnectionError:
        return False
