"""The request of simplified sliding sync (MSC4186), as clients send it today."""

from collections.abc import Sequence
from hashlib import blake2b

import msgspec
import orjson

from homeserver.errors import invalid_param

MAX_LISTS = 100
MAX_SUBSCRIPTIONS = 200
MAX_STATE_PATTERNS = 200
MAX_TIMELINE = 100
MAX_CONN_ID = 64
MAX_LIST_NAME = 255
MAX_RANGES = 20


class RoomConfig(msgspec.Struct, frozen=True):
    """How much of a room is wanted. `required_state` holds (type, state key) with `*`, `$ME`, `$LAZY`."""

    timeline_limit: int = 0
    required_state: Sequence[tuple[str, str]] = ()
    include_heroes: bool = False


class ListFilters(msgspec.Struct, frozen=True):
    is_dm: bool | None = None
    is_encrypted: bool | None = None
    is_invite: bool | None = None
    spaces: Sequence[str] | None = None
    room_types: Sequence[str | None] | None = None
    not_room_types: Sequence[str | None] = ()
    room_name_like: str | None = None
    tags: Sequence[str] | None = None
    not_tags: Sequence[str] = ()


class RoomList(RoomConfig, frozen=True):
    """A list of rooms; `ranges` are inclusive pairs of indexes into it."""

    ranges: Sequence[tuple[int, int]] | None = None
    filters: ListFilters = ListFilters()


class Extension(msgspec.Struct, frozen=True):
    """`lists` and `rooms` say for which rooms; all that the client looks at by default."""

    enabled: bool = False
    lists: Sequence[str] | None = None
    rooms: Sequence[str] | None = None


class ToDeviceExtension(msgspec.Struct, frozen=True):
    enabled: bool = False
    limit: int = 100
    since: str | None = None


class Extensions(msgspec.Struct, frozen=True):
    to_device: ToDeviceExtension = ToDeviceExtension()
    e2ee: Extension = Extension()
    account_data: Extension = Extension()
    receipts: Extension = Extension()
    typing: Extension = Extension()


class SlidingRequest(msgspec.Struct, frozen=True):
    conn_id: str = ""
    txn_id: str | None = None
    lists: dict[str, RoomList] = {}
    room_subscriptions: dict[str, RoomConfig] = {}
    extensions: Extensions = Extensions()

    def check(self) -> None:
        """Raises 400 beyond the bounds."""
        if len(self.conn_id) > MAX_CONN_ID:
            raise invalid_param(f"conn_id: at most {MAX_CONN_ID} characters")
        if len(self.lists) > MAX_LISTS:
            raise invalid_param(f"lists: at most {MAX_LISTS}")
        if any(len(name) > MAX_LIST_NAME for name in self.lists):
            raise invalid_param(f"lists: names of at most {MAX_LIST_NAME} characters")
        if len(self.room_subscriptions) > MAX_SUBSCRIPTIONS:
            raise invalid_param(f"room_subscriptions: at most {MAX_SUBSCRIPTIONS}")
        for config in (*self.lists.values(), *self.room_subscriptions.values()):
            if len(config.required_state) > MAX_STATE_PATTERNS:
                raise invalid_param(f"required_state: at most {MAX_STATE_PATTERNS} entries")
            if config.timeline_limit < 0:
                raise invalid_param("timeline_limit: not negative")
        for wanted in self.lists.values():
            ranges = wanted.ranges or ()
            if len(ranges) > MAX_RANGES or any(not 0 <= low <= high for low, high in ranges):
                raise invalid_param("ranges: pairs of indexes, the first not above the second")


class StatePatterns:
    """Which state events of a room are wanted; lists and subscriptions of one room add up."""

    def __init__(self, user_id: str) -> None:
        self._user_id = user_id
        self.exact: set[tuple[str, str]] = set()
        self._types: set[str] = set()
        self._keys: set[str] = set()
        self.everything = False
        self.lazy = False

    def add(self, patterns: Sequence[tuple[str, str]]) -> None:
        for type, key in patterns:
            if type == "m.room.member" and key == "$LAZY":
                self.lazy = True
            elif type == "*" and key == "*":
                self.everything = True
            elif key == "*":
                self._types.add(type)
            elif type == "*":
                self._keys.add(self._user_id if key == "$ME" else key)
            else:
                self.exact.add((type, self._user_id if key == "$ME" else key))

    @property
    def only_exact(self) -> bool:
        """Whether the wanted keys can be looked up one by one."""
        return not (self.everything or self._types or self._keys)

    def wants(self, type: str, key: str) -> bool:
        if type == "m.room.member" and self.lazy and not self.everything:
            return (type, key) in self.exact
        return self.everything or (type, key) in self.exact or type in self._types or key in self._keys

    def signature(self) -> str:
        """Equal for equal wishes."""
        wishes = (
            self.everything,
            self.lazy,
            sorted(self.exact),
            sorted(self._types),
            sorted(self._keys),
        )
        return blake2b(orjson.dumps(wishes), digest_size=6).hexdigest()
