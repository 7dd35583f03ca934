"""The push rules of users, compiled once per edit (spec: client-server "Push Rules").

They are kept as account data `m.push_rules`; what is stored holds only what a user changed.
"""

from collections import OrderedDict

import orjson

from homeserver.protocol.push_evaluation import CompiledRules, compile_rules
from homeserver.protocol.push_rules import PushRules
from homeserver.protocol.push_ruleset import ruleset
from homeserver.protocol.stored_push_rules import parse_stored
from homeserver.users.ignoring import IGNORED_USERS
from homeserver.users.users import AccountDatum, User

PUSH_RULES = "m.push_rules"
_RULES, _IGNORED = ("", PUSH_RULES), ("", IGNORED_USERS)
"""Where account data has them."""
KEPT = 20_000


class UserPushRules:
    """Compiled rules by user, kept while the account data behind them is the same."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[str, tuple[AccountDatum | None, CompiledRules]] = OrderedDict()

    def of(self, user: User) -> CompiledRules:
        """The user's rules, ready to evaluate."""
        datum = user.account_data.get(_RULES)
        kept = self._compiled.get(user.user_id)
        if kept is not None and kept[0] is datum:
            return kept[1]
        compiled = compile_rules(stored_rules(user), user.user_id)
        self._compiled[user.user_id] = (datum, compiled)
        if len(self._compiled) > KEPT:
            self._compiled.popitem(last=False)
        return compiled


def rules_version(user: User) -> int:
    """Which edit of the user's rules, or of whom they ignore, is in force; 0 when there was none."""
    rules, ignored = user.account_data.get(_RULES), user.account_data.get(_IGNORED)
    return max(rules.seq if rules is not None else 0, ignored.seq if ignored is not None else 0)


def stored_rules(user: User) -> PushRules:
    """What the user made of the default rules."""
    datum = user.account_data.get(_RULES)
    return _parse(datum.content if datum is not None else b"")


def shown_push_rules(user_id: str, stored: bytes) -> bytes:
    """The content of `m.push_rules` that clients see: what is stored, merged with the default rules."""
    return orjson.dumps({"global": ruleset(_parse(stored), user_id)})


def _parse(stored: bytes) -> PushRules:
    return parse_stored(orjson.loads(stored) if stored else {})
