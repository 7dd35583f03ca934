"""Push rules (spec: client-server "Push Rules: API")."""

from client_api.http import Call, delete, get, put
from homeserver.push.settings import PushRuleSettings
from rest.answers import Result
from rest.routes import Routes

RULE = "/pushrules/global/{kind}/{rule_id}"


class PushRuleRoutes(Routes):
    def __init__(self, settings: PushRuleSettings) -> None:
        self._settings = settings

    @get("/pushrules/")
    async def all(self, call: Call) -> Result:
        return {"global": await self._settings.ruleset(call.user_id)}

    @get("/pushrules/global/")
    async def global_rules(self, call: Call) -> Result:
        return await self._settings.ruleset(call.user_id)

    @get(RULE)
    async def rule(self, call: Call) -> Result:
        return await self._rule(call)

    async def _rule(self, call: Call) -> dict[str, object]:
        return await self._settings.rule(call.user_id, call.path("kind"), call.path("rule_id"))

    @put(RULE, limit="request", quick=True)
    async def add(self, call: Call) -> Result:
        await self._settings.add(
            call.user_id,
            call.path("kind"),
            call.path("rule_id"),
            call.content(),
            before=call.query("before"),
            after=call.query("after"),
        )
        return {}

    @delete(RULE, quick=True)
    async def remove(self, call: Call) -> Result:
        await self._settings.delete(call.user_id, call.path("kind"), call.path("rule_id"))
        return {}

    @get(RULE + "/enabled")
    async def enabled(self, call: Call) -> Result:
        return {"enabled": (await self._rule(call))["enabled"]}

    @put(RULE + "/enabled", quick=True)
    async def set_enabled(self, call: Call) -> Result:
        await self._settings.set_enabled(
            call.user_id, call.path("kind"), call.path("rule_id"), call.content().get("enabled")
        )
        return {}

    @get(RULE + "/actions")
    async def actions(self, call: Call) -> Result:
        return {"actions": (await self._rule(call))["actions"]}

    @put(RULE + "/actions", quick=True)
    async def set_actions(self, call: Call) -> Result:
        await self._settings.set_actions(
            call.user_id, call.path("kind"), call.path("rule_id"), call.content().get("actions")
        )
        return {}
