"""Answers of the store that are remembered until something happens to what they are about."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """The answers kept last. One that was overtaken while it was looked up is not remembered."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._under_way: dict[K, object] = {}
        """Newest look-up of each key to which nothing has happened since."""

    def get(self, key: K) -> V | None:
        return self._kept.get(key)

    def keep(self, key: K, value: V) -> None:
        self._kept[key] = value
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def forget(self, key: K) -> None:
        """Something happened: what is being looked up now may be as it was before."""
        self._kept.pop(key, None)
        self._under_way.pop(key, None)

    @contextmanager
    def looking_up(self, keys: Sequence[K]) -> Iterator[Callable[[K, V], None]]:
        """While the store is asked for these keys; gives what its answers are to be kept with."""
        look_up = object()
        self._under_way.update(dict.fromkeys(keys, look_up))

        def keep(key: K, value: V) -> None:
            if self._under_way.get(key) is look_up:
                self.keep(key, value)

        try:
            yield keep
        finally:
            for key in keys:
                if self._under_way.get(key) is look_up:
                    del self._under_way[key]
