"""What one was notified of (spec: client-server "Listing Notifications")."""

from client_api.http import Call, get
from homeserver.push.notifications import Notifications
from rest.answers import Result
from rest.routes import Routes

DEFAULT_LIMIT = 50
MAX_LIMIT = 500


class NotificationRoutes(Routes):
    def __init__(self, notifications: Notifications) -> None:
        self._notifications = notifications

    @get("/notifications", limit="request")
    async def listed(self, call: Call) -> Result:
        return await self._notifications.page(
            call.user_id,
            start=call.query("from"),
            limit=call.int_query("limit", DEFAULT_LIMIT, least=1, most=MAX_LIMIT),
            highlights_only=call.query("only") == "highlight",
        )
