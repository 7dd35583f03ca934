"""Third-party networks (spec: client-server "Third-party Networks")."""

import pytest

from tests.client_api.conftest import Client


async def test_a_server_without_bridges_knows_no_protocol(alice: Client) -> None:
    assert await alice.get("/thirdparty/protocols") == {}


@pytest.mark.parametrize(
    "path",
    [
        "/thirdparty/protocol/irc",
        "/thirdparty/location/irc?channel=x",
        "/thirdparty/user/irc?nick=x",
        "/thirdparty/location?alias=%23a:localhost",
        "/thirdparty/user?userid=@a:localhost",
    ],
)
async def test_look_ups_find_nothing(alice: Client, path: str) -> None:
    assert (await alice.call("GET", path, expect=404)).errcode == "M_NOT_FOUND"


@pytest.mark.parametrize("path", ["/thirdparty/location", "/thirdparty/user"])
async def test_what_to_look_up_must_be_named(alice: Client, path: str) -> None:
    assert (await alice.call("GET", path, expect=400)).errcode == "M_MISSING_PARAM"
