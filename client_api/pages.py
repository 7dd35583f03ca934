"""How pages for browsers are answered: the files of `web`, under a policy that lets nothing else in."""

from collections.abc import Mapping

from client_api.http import Auth, Call, get
from homeserver.errors import not_found
from rest.answers import Answer, Result
from rest.routes import Routes
from web import ASSETS, asset, render

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def page(name: str, status: int = 200, **values: str | bytes) -> Answer:
    """A rendered page."""
    return Answer(render(name, **values), status, HEADERS, "text/html")


class AssetRoutes(Routes):
    """What the pages load."""

    @get("/_matrix/static/client/{name}", auth=Auth.NONE)
    async def asset(self, call: Call) -> Result:
        name = call.path("name")
        if name not in ASSETS:
            raise not_found("There is no such file")
        return Answer(asset(name), content_type=ASSETS[name], headers={"X-Content-Type-Options": "nosniff"})
