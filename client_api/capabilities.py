"""What this server lets the one who asks do (spec: client-server "Capabilities negotiation")."""

from collections.abc import Callable

from client_api.http import Auth, Call, get
from homeserver.config.options import Limits
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from rest.answers import Result
from rest.routes import Routes


class CapabilityRoutes(Routes):
    def __init__(
        self, *, default_room_version: str, password_login: bool, login_tokens: bool, limits: Limits
    ) -> None:
        self._room_versions = {
            "default": default_room_version,
            "available": dict.fromkeys(ROOM_VERSIONS, "stable"),
            "org.matrix.msc3244.room_capabilities": {
                "knock": _versions_with(lambda version: version.knocking, default_room_version),
                "restricted": _versions_with(lambda version: version.restricted_joins, default_room_version),
            },
        }
        self._password_login = password_login
        self._login_tokens = login_tokens
        self._delayed_events = {
            "max_delay_ms": int(limits.max_event_delay),
            "max_scheduled": limits.max_delayed_events,
        }

    @get("/capabilities", auth=Auth.GUEST, limit="request")
    async def capabilities(self, call: Call) -> Result:
        account = call.session.account
        with_password = self._password_login and account.password is not None
        profile_fields: JsonObject = {"enabled": True}
        if account.is_guest:
            profile_fields["allowed"] = ["displayname"]
        found: JsonObject = {
            "m.change_password": {"enabled": with_password},
            "m.room_versions": self._room_versions,
            "m.profile_fields": profile_fields,
            "m.set_displayname": {"enabled": True},
            "m.set_avatar_url": {"enabled": not account.is_guest},
            "m.3pid_changes": {"enabled": False},
            "m.get_login_token": {"enabled": self._login_tokens and with_password},
            "m.forget_forced_upon_leave": {"enabled": False},
            "org.matrix.msc4140.delayed_events": self._delayed_events,
        }
        if account.is_admin:
            found["m.account_moderation"] = {"lock": True, "suspend": True}
        return {"capabilities": found}


def _versions_with(has: Callable[[RoomVersion], bool], default: str) -> JsonObject:
    """Room versions with a join rule (MSC3244): without them Element for Android and iOS do not offer it."""
    able = [name for name, version in ROOM_VERSIONS.items() if has(version)]
    return {"preferred": default if default in able else able[-1], "support": able}
