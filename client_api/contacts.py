"""E-mail addresses and phone numbers of accounts (spec: "Adding Account Administrative Contact Information").

This server keeps none: it sends no mail. The list is empty, nothing can be added, and the capability
`m.3pid_changes` says so. What users have shown to identity servers, these publish when they are asked to.
"""

from typing import Annotated

import msgspec

from client_api.http import Auth, Call, get, post
from homeserver.errors import MatrixError
from homeserver.identity.addresses import canonical
from homeserver.identity.bindings import Bindings
from homeserver.identity.servers import IdentityServers
from homeserver.protocol.json_types import JsonObject
from rest.answers import Result
from rest.routes import Routes

Opaque = Annotated[str, msgspec.Meta(max_length=255)]


class Session(msgspec.Struct):
    """At an identity server; somebody has shown there to have an address."""

    id_server: str
    id_access_token: str
    sid: Opaque
    client_secret: Opaque


class Unwanted(msgspec.Struct):
    medium: str
    address: str
    id_server: str | None = None


def unbind_result(done: bool) -> JsonObject:
    return {"id_server_unbind_result": "success" if done else "no-support"}


class ContactRoutes(Routes):
    def __init__(self, identity: IdentityServers, bindings: Bindings) -> None:
        self._identity = identity
        self._bindings = bindings

    @get("/account/3pid")
    async def contacts(self, call: Call) -> Result:
        return {"threepids": []}

    @post("/account/3pid", "/account/3pid/add", limit="request")
    async def add(self, call: Call) -> Result:
        call.content()
        raise MatrixError(403, "M_THREEPID_AUTH_FAILED", "This server validates no addresses")

    @post("/account/3pid/bind", limit="request")
    async def bind(self, call: Call) -> Result:
        self._identity.check_any()
        session = call.json(Session)
        account = self._identity.account(session.id_server, session.id_access_token)
        await self._bindings.bind(call.user_id, account, session.sid, session.client_secret)
        return {}

    @post("/account/3pid/delete", "/account/3pid/unbind", limit="request")
    async def remove(self, call: Call) -> Result:
        unwanted = call.json(Unwanted)
        # The account itself has none.
        address = canonical(unwanted.medium, unwanted.address)
        return unbind_result(await self._bindings.unbind(call.user_id, address, unwanted.id_server))

    @post(
        "/account/3pid/email/requestToken",
        "/account/3pid/msisdn/requestToken",
        auth=Auth.NONE,
        limit="registration_check",
    )
    async def validate_to_add(self, call: Call) -> Result:
        call.content()
        raise MatrixError(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED", "This server keeps no contact information")

    @post(
        "/register/email/requestToken",
        "/register/msisdn/requestToken",
        auth=Auth.NONE,
        limit="registration_check",
    )
    async def validate_to_register(self, call: Call) -> Result:
        call.content()
        raise MatrixError(403, "M_THREEPID_DENIED", "Accounts here have no contact information")

    @post(
        "/account/password/email/requestToken",
        "/account/password/msisdn/requestToken",
        auth=Auth.NONE,
        limit="registration_check",
    )
    async def validate_to_reset_password(self, call: Call) -> Result:
        call.content()
        raise MatrixError(400, "M_THREEPID_NOT_FOUND", "No account here has this address")
