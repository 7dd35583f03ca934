"""One request, as handlers see it."""

from typing import TypeVar

from aiohttp import web

from homeserver.errors import invalid_param, missing_param
from homeserver.protocol.json_types import JsonObject
from rest.bodies import converted, decoded, json_object
from rest.routes import PARAMETERS

T = TypeVar("T")


class Call:
    """Its parameters and its body; who calls is for each API to say."""

    __slots__ = ("raw", "request")

    def __init__(self, request: web.Request, raw: bytes) -> None:
        self.request = request
        self.raw = raw
        """The body, b"" of routes that read none or read it themselves."""

    def path(self, name: str) -> str:
        """A path parameter, decoded."""
        return self.request[PARAMETERS][name]

    def query(self, name: str) -> str | None:
        return self.request.query.get(name)

    def query_all(self, name: str) -> list[str]:
        return self.request.query.getall(name, [])

    def required_query(self, name: str) -> str:
        value = self.query(name)
        if value is None:
            raise missing_param(f"Missing query parameter: {name}")
        return value

    def int_query(
        self, name: str, default: int | None = None, *, least: int = 0, most: int | None = None
    ) -> int:
        """A whole number, cut to `most`; without a default it must be there.

        Raises 400 M_INVALID_PARAM below `least` or for anything else, and 400 M_MISSING_PARAM.
        """
        text = self.query(name)
        if text is None:
            if default is None:
                raise missing_param(f"Missing query parameter: {name}")
            return default
        if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 18 or int(text) < least:
            raise invalid_param(f"{name}: a whole number of at least {least}")
        value = int(text)
        return value if most is None else min(value, most)

    def bool_query(self, name: str, default: bool = False) -> bool:
        text = self.query(name)
        if text is None:
            return default
        if text not in ("true", "false"):
            raise invalid_param(f"{name}: true or false")
        return text == "true"

    def choice_query(self, name: str, *choices: str) -> str:
        """One of these words, the first if none is given. Raises 400 M_INVALID_PARAM."""
        text = self.query(name) or choices[0]
        if text not in choices:
            raise invalid_param(f"{name}: {' or '.join(choices)}")
        return text

    def json(self, kind: type[T]) -> T:
        """The body as a struct (or JsonObject); an empty body counts as {}.

        Raises 400 M_NOT_JSON, M_BAD_JSON or M_MISSING_PARAM.
        """
        return converted(self.content() if self.raw else {}, kind)

    def struct(self, kind: type[T]) -> T:
        """What `json` gives, faster; for structs in which nothing may be just anything."""
        return decoded(self.raw or b"{}", kind)

    def content(self) -> JsonObject:
        """The body as a JSON object; it must be there. Raises 400 M_NOT_JSON or M_BAD_JSON."""
        return json_object(self.raw)
