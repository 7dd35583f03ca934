"""E-mail addresses and phone numbers of accounts (spec: "Adding Account Administrative Contact Information").

This server keeps none: it sends no mail and talks to no identity server. The list is empty, nothing can
be added, and the capability `m.3pid_changes` says so.
"""

import msgspec

from client_api.http import Auth, Call, get, post
from homeserver.errors import MatrixError, no_identity_server
from rest.answers import Result
from rest.routes import Routes


class Unwanted(msgspec.Struct):
    medium: str
    address: str


class ContactRoutes(Routes):
    @get("/account/3pid")
    async def contacts(self, call: Call) -> Result:
        return {"threepids": []}

    @post("/account/3pid", "/account/3pid/add", limit="request")
    async def add(self, call: Call) -> Result:
        call.content()
        raise MatrixError(403, "M_THREEPID_AUTH_FAILED", "This server validates no addresses")

    @post("/account/3pid/bind", limit="request")
    async def bind(self, call: Call) -> Result:
        call.content()
        raise no_identity_server()

    @post("/account/3pid/delete", "/account/3pid/unbind")
    async def remove(self, call: Call) -> Result:
        call.json(Unwanted)
        # The account does not have it, and no identity server could be asked.
        return {"id_server_unbind_result": "no-support"}

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
