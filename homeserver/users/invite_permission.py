"""Whether a user wants to be invited (spec: client-server "Invite permission")."""

from homeserver.errors import MatrixError
from homeserver.users.users import User, Users

CONFIG = "m.invite_permission_config"


def blocks_invites(user: User) -> bool:
    """The user's account data says that all invites are to be refused."""
    return user.global_data(CONFIG).get("default_action") == "block"


class InvitePermission:
    """Asked before a local user is invited."""

    def __init__(self, users: Users) -> None:
        self._users = users

    async def check_invite(self, invitee: str) -> None:
        """Raises 403 M_INVITE_BLOCKED."""
        if self._users.is_local(invitee) and blocks_invites(await self._users.get(invitee)):
            raise MatrixError(403, "M_INVITE_BLOCKED", "The user does not accept invites")
