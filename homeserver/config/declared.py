"""The declarations of `options`, read back as data: paths, types in words, environment variables.

Everything that must know all options without naming one of them goes through here: reading, checking, and
making the documents.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

from homeserver.config.options import Config


class Option(msgspec.Struct, frozen=True):
    """One option: a leaf of the tree of sections."""

    path: tuple[str, ...]
    type: inspect.Type
    annotation: Any
    """The type as written in the declaration, for msgspec to convert to."""
    description: str
    default: Any
    """msgspec.NODEFAULT when it has to be given."""

    @property
    def key(self) -> str:
        """The path as one writes it, e.g. `storage.uri`."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """The environment variable that sets it, e.g. `WEFT_STORAGE_URI`."""
        return "_".join(("weft", *self.path)).upper()


class Group(msgspec.Struct, frozen=True):
    """A section as it is declared: its options and the sections in it, in order."""

    path: tuple[str, ...]
    description: str
    members: "dict[str, Option | Group]"
    default: msgspec.Struct | None
    """The section as it is when nothing is said; None for the whole configuration, which needs a name."""

    def options(self) -> Iterator[Option]:
        """All options in it, at any depth."""
        for member in self.members.values():
            if isinstance(member, Group):
                yield from member.options()
            else:
                yield member


def _group(
    cls: type[msgspec.Struct], path: tuple[str, ...], description: str, default: msgspec.Struct | None
) -> Group:
    members: dict[str, Option | Group] = {}
    described = inspect.type_info(cls)
    assert isinstance(described, inspect.StructType)
    for declared, field in zip(described.fields, msgspec.structs.fields(cls), strict=True):
        kind, inner, text = declared.type, bare(declared.type), ""
        if isinstance(kind, inspect.Metadata):
            text = (kind.extra_json_schema or {}).get("description", "")
        here = (*path, declared.name)
        value = declared.default if default is None else getattr(default, declared.name)
        if isinstance(inner, inspect.StructType):
            introduction = text or (inner.cls.__doc__ or "")
            members[declared.name] = _group(inner.cls, here, introduction, value)
        else:
            members[declared.name] = Option(here, kind, field.type, text, value)
    return Group(path, description, members, default)


def bare(kind: inspect.Type) -> inspect.Type:
    """The type without what was said about it."""
    return bare(kind.type) if isinstance(kind, inspect.Metadata) else kind


def takes(kind: inspect.Type, *cases: type[inspect.Type]) -> bool:
    """Is it of one of these cases, or a choice among types of which one is?"""
    kind = bare(kind)
    if isinstance(kind, inspect.UnionType):
        return any(takes(each, *cases) for each in kind.types)
    return isinstance(kind, cases)


def extra(kind: inspect.Type, key: str) -> Any:
    """What a declaration says under `key` beside msgspec's own terms; None when it says nothing."""
    if isinstance(kind, inspect.Metadata):
        return (kind.extra or {}).get(key) or extra(kind.type, key)
    return None


def in_words(kind: inspect.Type) -> str:
    """The values a type takes, as the object of a sentence: `a whole number from 1 to 64`."""
    match kind:
        case inspect.Metadata():
            words = extra(kind, "kind") or in_words(kind.type)
            least = extra(kind, "least")
            return f"{words}, at least {least}" if least else words
        case inspect.UnionType(types=types):
            *some, last = [in_words(each) for each in types]
            return f"{', '.join(some)} or {last}"
        case inspect.VarTupleType(item_type=item):
            return f"a list; each item {in_words(item)}"
        case inspect.DictType(value_type=value):
            return f"a group with names of your own; each value {in_words(value)}"
        case inspect.StructType(fields=fields):
            return f"a group of {', '.join(field.name for field in fields)}"
        case inspect.LiteralType(values=values):
            *some_values, last_value = map(str, values)
            return f"{', '.join(some_values)} or {last_value}"
        case inspect.CustomType(cls=cls):
            return str(cls.KIND)  # type: ignore[attr-defined]
        case inspect.IntType(ge=least, le=most):
            return f"a whole number{_bounds(least, most)}"
        case inspect.FloatType(ge=least, le=most):
            return f"a number{_bounds(least, most)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "null"
        case _:
            return "text"


def _bounds(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f" from {least} to {most}"
    return f", at least {least}" if least is not None else ""


OPTIONS = _group(Config, (), Config.__doc__ or "", None)
"""The tree of all options."""
