"""The pages that the server shows in a browser, as files beside this module.

`render` fills the `$names` of a page with text, escaped, and with what it rendered before (bytes).
Pages hold no script or style of their own: what they load are the assets, so that the
Content-Security-Policy can forbid everything else.
"""

from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

ASSETS: Mapping[str, str] = {
    "style.css": "text/css",
    "login.js": "text/javascript",
    "stage_done.js": "text/javascript",
}
"""What pages may load, and its content type."""


def render(page: str, **values: str | bytes) -> bytes:
    """A page (`login`, `stage_password` …) with its names filled in."""
    escaped = {
        name: escape(value) if isinstance(value, str) else value.decode() for name, value in values.items()
    }
    return Template(_read(page + ".html").decode()).substitute(escaped).encode()


def asset(name: str) -> bytes:
    """One of ASSETS."""
    assert name in ASSETS
    return _read(name)


@cache
def _read(name: str) -> bytes:
    return (files(__name__) / name).read_bytes()
