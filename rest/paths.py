"""Which of the declared paths a request is for: a tree, walked segment by segment.

What a path costs to find depends on its own length alone, not on how many others begin like it.
"""

import re
from typing import Generic, TypeVar

T = TypeVar("T")

_PARAMETER = re.compile(r"\{(\w+)\}")


class Paths(Generic[T]):
    """A value for each declared path, such as "/rooms/{room_id}/send/{type}/{txn_id}".

    A segment is a word or a parameter, which takes any text but none. Where both fit the word is meant.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._longest = 0

    def at(self, path: str, default: T) -> T:
        """The value of a declared path, `default` if it is new."""
        node, names = self._root, []
        segments = path.split("/")
        for segment in segments:
            if parameter := _PARAMETER.fullmatch(segment):
                names.append(parameter[1])
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.words.setdefault(segment, _Node())
        self._longest = max(self._longest, len(segments))
        if node.end is None:
            node.end = _End(default, names)
        return node.end.value

    def find(self, path: str) -> tuple[T, dict[str, str]] | None:
        """The value of the declared path that fits, and the texts of its parameters.

        `path` is decoded but for %2F and %25, which are text of a segment.
        """
        segments = path.split("/")
        if len(segments) > self._longest:
            return None
        texts: list[str] = []
        end = _find(self._root, segments, 0, texts)
        if end is None:
            return None
        if "%" in path:
            texts = [text.replace("%2F", "/").replace("%25", "%") for text in texts]
        return end.value, dict(zip(end.names, texts, strict=True))


class _End(Generic[T]):
    __slots__ = ("names", "value")

    def __init__(self, value: T, names: list[str]) -> None:
        self.value = value
        self.names = names


class _Node(Generic[T]):
    __slots__ = ("end", "parameter", "words")

    def __init__(self) -> None:
        self.words: dict[str, _Node[T]] = {}
        self.parameter: _Node[T] | None = None
        self.end: _End[T] | None = None


def _find(node: _Node[T], segments: list[str], depth: int, texts: list[str]) -> _End[T] | None:
    while depth < len(segments):
        segment = segments[depth]
        depth += 1
        word = node.words.get(segment)
        if node.parameter is None or not segment:
            if word is None:
                return None
            node = word
            continue
        if word is not None:
            before = len(texts)
            if (end := _find(word, segments, depth, texts)) is not None:
                return end
            del texts[before:]
        texts.append(segment)
        node = node.parameter
    return node.end
