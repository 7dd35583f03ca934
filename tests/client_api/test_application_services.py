"""Users of application services (spec: application-service "Server admin style permissions")."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from homeserver.cli import main
from tests.client_api.conftest import Client, Server

TYPE = "m.login.application_service"


def described(name: str, **changed: Any) -> dict[str, Any]:
    users = [{"exclusive": True, "regex": f"@_{name}_.*:localhost"}, {"exclusive": False, "regex": "@b.*"}]
    return {
        "id": name,
        "url": None,
        "as_token": f"token of {name}",
        "hs_token": "secret",
        "sender_localpart": f"{name}bot",
        "namespaces": {"users": users, "aliases": [], "rooms": []},
        "rate_limited": False,
        **changed,
    }


async def with_services(server: Server, *services: dict[str, Any]) -> None:
    paths = []
    for number, service in enumerate(services):
        path = server.data_dir / f"service{number}.yaml"
        path.write_text(yaml.safe_dump(service))
        paths.append(f"{{data_dir}}/service{number}.yaml")
    await server.restart(msgspec.structs.replace(server.config, application_services=tuple(paths)))


def speaking(server: Server, name: str) -> Client:
    client = server.client()
    client.token = f"token of {name}"
    return client


async def test_a_service_registers_its_users_and_logs_them_in(server: Server) -> None:
    await with_services(server, described("irc"), described("xmpp"))
    irc = speaking(server, "irc")
    made = await irc.post("/register", {"type": TYPE, "username": "_irc_dan", "inhibit_login": True})
    assert made == {"user_id": "@_irc_dan:localhost"}
    named = {"type": "m.id.user", "user": "_irc_dan"}
    session = await irc.post("/login", {"type": TYPE, "identifier": named, "device_id": "BRIDGE"})
    assert (session["user_id"], session["device_id"]) == ("@_irc_dan:localhost", "BRIDGE")
    dan = server.client()
    dan.token, dan.user_id = session["access_token"], session["user_id"]
    room_id = await dan.create_room()
    await dan.send(room_id, "from elsewhere")
    # There is no password that it could be asked for.
    await dan.call("DELETE", "/devices/BRIDGE", {})
    assert (await dan.call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"
    # At once, too, and its own user.
    for username in ("_irc_eve", "ircbot"):
        made = await irc.post("/register", {"type": TYPE, "username": username})
        again = server.client()
        again.token = made["access_token"]
        assert (await again.get("/account/whoami"))["user_id"] == f"@{username}:localhost"
    reply = await irc.call("POST", "/register", {"type": TYPE, "username": "_irc_dan"}, expect=400)
    assert reply.errcode == "M_USER_IN_USE"
    assert {"type": TYPE} in (await server.client().get("/login"))["flows"]


@pytest.mark.parametrize("username", ["_xmpp_dan", "xmppbot", "anna"])
async def test_a_service_has_no_users_but_its_own(server: Server, username: str) -> None:
    await with_services(server, described("irc"), described("xmpp"))
    irc = speaking(server, "irc")
    reply = await irc.call("POST", "/register", {"type": TYPE, "username": username}, expect=400)
    assert reply.errcode == "M_EXCLUSIVE"
    body = {"type": TYPE, "identifier": {"type": "m.id.user", "user": username}}
    assert (await irc.call("POST", "/login", body, expect=400)).errcode == "M_EXCLUSIVE"


async def test_names_of_a_service_are_for_nobody_else_where_they_are_exclusive(server: Server) -> None:
    await with_services(server, described("irc"))
    for username, free in (("_irc_dan", False), ("ircbot", False), ("bert", True)):
        query = {"username": username}
        reply = await server.client().call(
            "GET", "/register/available", query=query, expect=200 if free else 400
        )
        assert free or reply.errcode == "M_EXCLUSIVE"
    await server.register("bert")
    session = await speaking(server, "irc").post(
        "/login", {"type": TYPE, "identifier": {"type": "m.id.user", "user": "bert"}}
    )
    assert session["user_id"] == "@bert:localhost"


async def test_whoever_claims_to_be_a_service_is_refused(server: Server, alice: Client) -> None:
    await with_services(server, described("irc"))
    again = server.client()
    again.token = alice.token
    for path, body in (
        ("/register", {"type": TYPE, "username": "_irc_x"}),
        ("/login", {"type": TYPE, "identifier": {"type": "m.id.user", "user": "_irc_x"}}),
    ):
        assert (await server.client().call("POST", path, body, expect=401)).errcode == "M_MISSING_TOKEN"
        assert (await again.call("POST", path, body, expect=401)).errcode == "M_UNKNOWN_TOKEN"
        assert (
            await speaking(server, "xmpp").call("POST", path, body, expect=401)
        ).errcode == "M_UNKNOWN_TOKEN"
    reply = await speaking(server, "irc").call("POST", "/register", {"type": TYPE}, expect=400)
    assert reply.errcode == "M_MISSING_PARAM"
    body = {"type": TYPE, "identifier": {"type": "m.id.user", "user": "_irc_nobody"}}
    assert (await speaking(server, "irc").call("POST", "/login", body, expect=403)).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "cannot be read"),
        ("id: [", "is no registration file"),
        (yaml.safe_dump({"id": "irc"}), "as_token"),
        (yaml.safe_dump(described("irc", namespaces={"users": [{"exclusive": True, "regex": "("}]})), "'('"),
        (yaml.safe_dump(described("other", as_token="token of irc")), "another file has the same"),
    ],
)
def test_a_file_that_describes_no_service_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], written: str | None, said: str
) -> None:
    good, bad = tmp_path / "irc.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump(described("irc")))
    if written is not None:
        bad.write_text(written)
    config = tmp_path / "weft.yaml"
    config.write_text(
        yaml.safe_dump({"server_name": "localhost", "application_services": [str(good), str(bad)]})
    )
    assert main(["check-config", "-c", str(config)]) == 2
    told = capsys.readouterr().err
    assert str(good) not in told
    for part in (str(bad), "application_services", said):
        assert part in told
