"""Presence: who is online, and since when not (spec: client-server "Presence")."""

from homeserver.users.users import User


class Presence:
    """The presence of local users."""

    async def seen_syncing(self, user_id: str, presence: str) -> None:
        """A device of the user syncs."""

    def events(self, user: User, after: int) -> list[bytes]:
        """`m.presence` events of users who share a room with `user`, changed after an ephemeral number."""
        return []
