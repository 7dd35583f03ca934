"""Whom a user ignores (spec: client-server "Ignoring Users")."""

from homeserver.users.users import User

IGNORED_USERS = "m.ignored_user_list"
_NOBODY: frozenset[str] = frozenset()


def ignored_by(user: User) -> frozenset[str]:
    """The user ids in the user's list; nobody ignores themselves, whatever it says."""
    if ("", IGNORED_USERS) not in user.account_data:
        return _NOBODY
    ignored = user.global_data(IGNORED_USERS).get("ignored_users")
    return frozenset(ignored) - {user.user_id} if isinstance(ignored, dict) else _NOBODY
