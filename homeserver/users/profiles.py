"""Profiles: displayname, avatar and any other field (spec: client-server "Profiles", MSC4133)."""

from collections.abc import Awaitable, Callable

import orjson

from homeserver.errors import MatrixError, invalid_param, not_found
from homeserver.protocol.canonical_json import InvalidJson, check_value
from homeserver.protocol.identifiers import check_namespaced
from homeserver.protocol.json_types import JsonObject
from storage.collection import Collection
from storage.records.profiles import Profile

MAX_PROFILE_BYTES = 65_536
MAX_KEY_BYTES = 255
MAX_NAME_BYTES = 256
MAX_URL_BYTES = 1000
IN_MEMBER_EVENTS = ("displayname", "avatar_url")
STRINGS = (*IN_MEMBER_EVENTS, "m.tz")

OnChange = Callable[[str], Awaitable[None]]


class Profiles:
    """The profiles of local users."""

    def __init__(self, profiles: Collection[Profile]) -> None:
        self._profiles = profiles
        self.on_member_change: list[OnChange] = []
        """Called with the user id after displayname or avatar_url changed."""

    async def get(self, user_id: str) -> JsonObject:
        profile = await self._profiles.get(user_id)
        return profile.fields if profile is not None else {}

    async def field(self, user_id: str, key: str) -> object:
        """Raises 404 when it is not set."""
        fields = await self.get(user_id)
        if key not in fields:
            raise not_found("The profile has no such field")
        return fields[key]

    async def member_profile(self, user_id: str) -> JsonObject:
        fields = await self.get(user_id)
        return {key: fields[key] for key in IN_MEMBER_EVENTS if fields.get(key)}

    async def set(self, user_id: str, key: str, value: object) -> None:
        """Set one field. Raises 400 for what a profile may not hold."""
        check_field(key, value)
        check_namespaced(key)
        if value == "" and key in IN_MEMBER_EVENTS:
            await self.delete(user_id, key)
        else:
            await self._change(user_id, key, lambda fields: {**fields, key: value})

    async def delete(self, user_id: str, key: str) -> None:
        """Delete one field, if it is there."""
        await self._change(
            user_id, key, lambda fields: {name: value for name, value in fields.items() if name != key}
        )

    async def _change(self, user_id: str, key: str, change: Callable[[JsonObject], JsonObject]) -> None:
        while True:
            old = await self._profiles.get(user_id)
            fields = change(old.fields if old is not None else {})
            if len(orjson.dumps(fields)) > MAX_PROFILE_BYTES:
                raise MatrixError(400, "M_PROFILE_TOO_LARGE", "A profile may have 64 KiB at most")
            if await self._profiles.replace_if(old, Profile(user_id=user_id, fields=fields)):
                break
        if key in IN_MEMBER_EVENTS:
            # Also when it was set already: an earlier attempt may have died before all rooms had it.
            for on_change in self.on_member_change:
                await on_change(user_id)

    async def begin(self, user_id: str, displayname: str) -> None:
        """Give a new account its first name; nobody knows it yet who would have to be told. Raises 400."""
        check_field("displayname", displayname)
        await self._profiles.put(Profile(user_id=user_id, fields={"displayname": displayname}))

    async def erase(self, user_id: str) -> None:
        await self._profiles.delete(user_id)


def check_field(key: str, value: object) -> None:
    """Raises 400 M_KEY_TOO_LARGE, M_PROFILE_TOO_LARGE, M_BAD_JSON or M_INVALID_PARAM."""
    if len(key.encode()) > MAX_KEY_BYTES:
        raise MatrixError(400, "M_KEY_TOO_LARGE", "A profile field's name may have 255 bytes at most")
    if not key:
        raise invalid_param("A profile field needs a name")
    if key in STRINGS and not isinstance(value, str):
        raise MatrixError(400, "M_BAD_JSON", f"{key} must be a string")
    if key in IN_MEMBER_EVENTS and isinstance(value, str):
        most = MAX_NAME_BYTES if key == "displayname" else MAX_URL_BYTES
        if len(value.encode()) > most:
            raise invalid_param(f"{key} may have {most} bytes at most")
    try:
        check_value({key: value})
    except InvalidJson as error:
        raise MatrixError(400, "M_BAD_JSON", str(error)) from error
