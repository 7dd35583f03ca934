"""Files of this server's users, as other servers fetch them (HARDENING 27)."""

import email.message
import email.parser
import email.policy
from typing import Any

from msgspec.structs import replace

from tests.client_api.conftest import Client, Reply
from tests.client_api.test_media import picture, upload
from tests.federation.servers import Homeserver, OtherServer

MEDIA = "/_matrix/federation/v1/media"


def parts_of(reply: Reply) -> list[Any]:
    """The parts of an answer, as a parser of the standard library reads them."""
    head = f"Content-Type: {reply.headers['Content-Type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + reply.body)
    assert message.get_content_type() == "multipart/mixed"
    return list(message.iter_parts())


async def test_a_file_comes_with_what_is_to_be_said_of_it(other: OtherServer, alice: Client) -> None:
    content = bytes(range(256)) * 3000
    where = await upload(alice, content, "application/x-ünï", "ünï\r\n.bin")
    reply = await other.call("GET", f"{MEDIA}/download/{where.partition('/')[2]}")
    described, file = parts_of(reply)
    assert described.get_content_type() == "application/json"
    assert described.get_content().strip() in (b"{}", "{}")
    assert content in reply.body
    assert file["Content-Type"] == "application/octet-stream"
    assert file.get_content_disposition() == "attachment"
    assert file.get_filename() == "ünï.bin"
    assert int(reply.headers["Content-Length"]) == len(reply.body)


async def test_a_picture_comes_in_a_smaller_size(other: OtherServer, alice: Client) -> None:
    media_id = (await upload(alice, picture(800, 600))).partition("/")[2]
    path = f"{MEDIA}/thumbnail/{media_id}"
    _, file = parts_of(await other.call("GET", path, query={"width": "64", "height": "64"}))
    assert file.get_content_type() == "image/jpeg"
    assert file.get_content_disposition() == "inline"
    for query in ({}, {"width": "64"}, {"width": "0", "height": "64"}, {"width": "a", "height": "64"}):
        await other.call("GET", path, query=query, expect=400)
    text = (await upload(alice, b"no picture", "text/plain")).partition("/")[2]
    reply = await other.call(
        "GET", f"{MEDIA}/thumbnail/{text}", query={"width": "64", "height": "64"}, expect=400
    )
    assert reply.errcode == "M_UNKNOWN"


async def test_files_that_are_not_here_are_not_found(other: OtherServer, alice: Client) -> None:
    await other.call("GET", f"{MEDIA}/download/none", expect=404)
    await other.call("GET", f"{MEDIA}/download/..%2F..%2Fsigning.key", expect=404)
    pending = (await alice.post("/_matrix/media/v1/create"))["content_uri"].rpartition("/")[2]
    reply = await other.call("GET", f"{MEDIA}/download/{pending}", query={"timeout_ms": "10"}, expect=504)
    assert reply.errcode == "M_NOT_YET_UPLOADED"


async def test_no_file_is_read_for_head(server: Homeserver, other: OtherServer, alice: Client) -> None:
    media_id = (await upload(alice, b"content", "text/plain")).partition("/")[2]
    reply = await other.call("HEAD", f"{MEDIA}/download/{media_id}")
    assert reply.body == b""
    await server.restart(replace(server.config))
    again = await other.call("GET", f"{MEDIA}/download/{media_id}")
    assert again.headers["Content-Length"] == reply.headers["Content-Length"]
