"""Reading and editing one's own push rules (spec: client-server "Push Rules: API").

The edits themselves are pure (`protocol.push_rule_edits`); here they meet what is stored. An edit is made
on the rules as they are when it is committed, so two devices never undo each other's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from homeserver.errors import MatrixError, not_found
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.push_rule_edits import add_rule, delete_rule, set_actions, set_enabled
from homeserver.protocol.push_rules import PushRule, PushRuleError, PushRules, RuleKind
from homeserver.protocol.push_ruleset import find_rule, rule_json, ruleset
from homeserver.protocol.stored_push_rules import parse_stored, stored_content
from homeserver.push.rules import PUSH_RULES, stored_rules
from homeserver.users.account_data import AccountData
from homeserver.users.users import Users

Edit = Callable[[PushRules, RuleKind], PushRules]


class PushRuleSettings:
    """The push rules of local users. Whatever is given as `kind` or `rule_id` may be anything.

    All raise MatrixError: 400 for what is no rule, 404 for one that is not there, 413 for too many.
    """

    def __init__(self, users: Users, account_data: AccountData) -> None:
        self._users = users
        self._account_data = account_data

    async def ruleset(self, user_id: str) -> JsonObject:
        """All rules by kind, the most important first."""
        return ruleset(stored_rules(await self._users.get(user_id)), user_id)

    async def rule(self, user_id: str, kind: str, rule_id: str) -> JsonObject:
        """One rule as clients see it."""
        user = await self._users.get(user_id)
        parsed = _known(kind)
        with _answered():
            found: PushRule = find_rule(stored_rules(user), user_id, parsed, rule_id)
        return rule_json(parsed, found)

    async def add(
        self,
        user_id: str,
        kind: str,
        rule_id: str,
        body: JsonObject,
        *,
        before: str | None,
        after: str | None,
    ) -> None:
        """Make a rule, or give one new parameters; see `protocol.push_rule_edits.add_rule`."""
        with _answered():
            parsed = RuleKind.parse(kind)
        await self._edit(
            user_id,
            parsed,
            lambda rules, kind: add_rule(rules, kind, rule_id, body, before=before, after=after),
        )

    async def delete(self, user_id: str, kind: str, rule_id: str) -> None:
        await self._edit(user_id, _known(kind), lambda rules, kind: delete_rule(rules, kind, rule_id))

    async def set_enabled(self, user_id: str, kind: str, rule_id: str, enabled: object) -> None:
        await self._edit(
            user_id, _known(kind), lambda rules, kind: set_enabled(rules, kind, rule_id, enabled)
        )

    async def set_actions(self, user_id: str, kind: str, rule_id: str, actions: object) -> None:
        await self._edit(
            user_id, _known(kind), lambda rules, kind: set_actions(rules, kind, rule_id, actions)
        )

    async def _edit(self, user_id: str, kind: RuleKind, edit: Edit) -> None:
        def change(content: JsonObject) -> JsonObject:
            with _answered():
                return stored_content(edit(parse_stored(content), kind))

        await self._account_data.change(user_id, PUSH_RULES, change)


def _known(kind: str) -> RuleKind:
    """The kind of a rule that should be there. Raises 404: of an unknown kind there is none."""
    try:
        return RuleKind.parse(kind)
    except PushRuleError as error:
        raise not_found(str(error)) from error


@contextmanager
def _answered() -> Iterator[None]:
    """Let errors of the rules reach the client as Matrix errors."""
    try:
        yield
    except PushRuleError as error:
        raise MatrixError(error.status, error.errcode, str(error)) from error
