"""A store that fails at the n-th write, to see what an operation leaves behind when it is cut short."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast

from storage.collection import Collection, CollectionSpec, Record
from storage.errors import StoreUnavailable
from storage.log import Log
from storage.search import SearchIndex
from storage.store import Store, StoreInfo

T = TypeVar("T", bound=Record)

LOG_WRITES = frozenset({"append", "rewrite", "remove"})
SEARCH_WRITES = frozenset({"add", "remove", "remove_room"})
COLLECTION_WRITES = frozenset({"insert", "put", "put_many", "replace_if", "take", "delete", "delete_where"})


class FaultyStore:
    """A Store that passes everything on, but the write number `fail_at` raises `error` once.

    `fail_at` None never fails: run an operation so and read `writes` to learn how many steps it has.
    With `stored` the failing write is done all the same, as when only its answer was lost, with `begun`
    without what was to be done `then` (with both `error` is best an OutcomeUnknown).
    """

    def __init__(
        self,
        store: Store,
        fail_at: int | None = None,
        *,
        error: Exception | None = None,
        stored: bool = False,
        begun: bool = False,
    ) -> None:
        self._store = store
        self._log = cast(Log, _Writes(store.log, LOG_WRITES, self._write))
        self._error = error or StoreUnavailable("injected fault")
        self._stored = stored
        self._begun = begun
        self.writes = 0
        """How many writes were called since the last `arm`."""
        self.fail_at = fail_at

    def arm(self, fail_at: int | None) -> None:
        """Count anew, and fail at write number `fail_at` (1 is the next one)."""
        self.writes = 0
        self.fail_at = fail_at

    @property
    def info(self) -> StoreInfo:
        return self._store.info

    @property
    def log(self) -> Log:
        return self._log

    @property
    def search(self) -> SearchIndex:
        return cast(SearchIndex, _Writes(self._store.search, SEARCH_WRITES, self._write))

    def collection(self, spec: CollectionSpec[T]) -> Collection[T]:
        return cast(Collection[T], _Writes(self._store.collection(spec), COLLECTION_WRITES, self._write))

    async def size_bytes(self) -> int:
        return await self._store.size_bytes()

    async def close(self) -> None:
        await self._store.close()

    async def _write(self, call: Callable[..., Awaitable[Any]], options: dict[str, Any]) -> Any:
        self.writes += 1
        if self.writes != self.fail_at:
            return await call(**options)
        if self._stored:
            await call(**options)
        elif self._begun and "then" in options:
            await call(**options | {"then": ()})
        raise self._error


class _Writes:
    """Another object, whose methods named in `writes` go through `write`."""

    def __init__(
        self,
        of: object,
        writes: frozenset[str],
        write: Callable[[Callable[..., Awaitable[Any]], dict[str, Any]], Awaitable[Any]],
    ) -> None:
        self._of = of
        self._writes = writes
        self._write = write

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._of, name)
        if name not in self._writes:
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._write(partial(method, *args), kwargs)

        return call
