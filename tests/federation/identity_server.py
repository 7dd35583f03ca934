"""A real identity server with TLS before it, and people who have e-mail addresses there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web
from msgspec.structs import replace
from yarl import URL

from homeserver.config.options import Identity
from homeserver.protocol.json_types import JsonObject
from tests.client_api.conftest import Client
from tests.federation.servers import PORT, Homeserver
from tests.federation_transport.network import Internet, Site, new_address
from tests.real_parts.sydent import Mailbox, Sydent

SECRET = "client.secret"


class IdentityServer:
    """What clients ask it themselves."""

    def __init__(self, name: str, site: Site, mailbox: Mailbox, http: aiohttp.ClientSession) -> None:
        self.name = name
        self.site = site
        self.mailbox = mailbox
        self._http = http

    async def call(self, method: str, path: str, content: Any = None, token: str | None = None) -> JsonObject:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        url = f"https://{self.name}/_matrix/identity/v2{path}"
        async with self._http.request(method, url, json=content, headers=headers) as response:
            body: JsonObject = await response.json()
            assert response.status == 200, body
            return body

    async def register(self, user: Client) -> str:
        """A user's token there."""
        openid = await user.post(f"/user/{user.user_id}/openid/request_token")
        token: str = (await self.call("POST", "/account/register", openid))["token"]
        return token

    async def validate(self, token: str, email: str) -> JsonObject:
        """A session in which somebody has shown to have an address."""
        wanted = {"email": email, "client_secret": SECRET, "send_attempt": 1}
        sid = (await self.call("POST", "/validate/email/requestToken", wanted, token))["sid"]
        session: JsonObject = {"sid": sid, "client_secret": SECRET}
        sent = (await self.mailbox.next())["token"]
        await self.call("POST", "/validate/email/submitToken", {**session, "token": sent}, token)
        return session

    async def knows(self, address: str, token: str) -> bool:
        """Whether it tells of a user by an address."""
        details = await self.call("GET", "/hash_details", token=token)
        wanted = {"algorithm": "none", "pepper": details["lookup_pepper"], "addresses": [f"{address} email"]}
        return bool((await self.call("POST", "/lookup", wanted, token))["mappings"])

    async def bind(self, user: Client, email: str) -> None:
        """Have the identity server know a user by an address."""
        token = await self.register(user)
        session = await self.validate(token, email)
        await self.call("POST", "/3pid/bind", {**session, "mxid": user.user_id}, token)


class Inviter:
    """Somebody who has an account there."""

    def __init__(self, client: Client, identity: IdentityServer, token: str) -> None:
        self.client = client
        self._identity = identity
        self._token = token

    def by(self, address: str) -> dict[str, str]:
        return {
            "id_server": self._identity.name,
            "id_access_token": self._token,
            "medium": "email",
            "address": address,
        }

    async def invite(self, room_id: str, address: str, expect: int = 200) -> str | None:
        path = f"/rooms/{quote(room_id)}/invite"
        return (await self.client.call("POST", path, self.by(address), expect=expect)).errcode


async def trust(server: Homeserver, identity: IdentityServer) -> None:
    await server.restart(replace(server.config, identity=Identity((identity.name,))))


@asynccontextmanager
async def identity_server(
    folder: Path, internet: Internet, http: aiohttp.ClientSession
) -> AsyncIterator[IdentityServer]:
    address = new_address()
    name = f"{address}:{PORT}"
    mailbox = Mailbox()
    await mailbox.start()
    sydent = Sydent(folder, name, mailbox.port)

    async def pass_on(request: web.BaseRequest) -> web.StreamResponse:
        url = URL(sydent.base + request.raw_path, encoded=True)
        headers = {key: value for key, value in request.headers.items() if key != "Host"}
        async with http.request(request.method, url, data=await request.read(), headers=headers) as answer:
            return web.Response(
                body=await answer.read(), status=answer.status, content_type=answer.content_type
            )

    site = await internet.site(address, port=PORT, address=address)
    site.below["/_matrix/identity/"] = pass_on
    try:
        sydent.start()
        yield IdentityServer(name, site, mailbox, http)
    finally:
        sydent.stop()
        mailbox.close()
