"""What is made from the declared options: sample file, configuration in effect, reference and JSON Schema.

`python -m homeserver.config.documents` (`make reference`) writes the two that are kept in the repository.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import msgspec
from msgspec import inspect

from homeserver.config.declared import OPTIONS, Group, Option, bare, in_words
from homeserver.config.options import Config
from homeserver.config.units import Duration, Secret, Size

REFERENCE = Path("docs/reference/configuration.md")
SCHEMA = Path("schemas/config.json")

WIDTH = 100


def sample(chosen: Mapping[str, Any]) -> str:
    """A configuration file that explains every option; those in `chosen`, by key, are set, the rest shown."""

    def line(option: Option | Group, indent: str) -> Iterator[str]:
        yield from ("", *_comment(option.description, indent))
        value = chosen.get(_key(option), option.default)
        mark = "" if _key(option) in chosen else "# "
        yield from (f"{indent}{mark}{text}" for text in _yaml(option.path[-1], value))

    head = (
        "Configuration of Weft. Lines that begin with '# ' and a name show defaults: take away the '# ' to "
        "change one. Each option can also be set in the environment: storage.uri is WEFT_STORAGE_URI. "
        "Durations are written 30s, 5m, 12h, 7d, sizes 100K, 50M, 2G. A secret can stay in a file of its "
        "own: file:/path/to/it."
    )
    return "\n".join([*_comment(head, ""), *_sections(line, explained=True)]) + "\n"


def effective(config: Config) -> str:
    """The whole configuration as YAML, secrets masked."""

    def line(option: Option | Group, indent: str) -> Iterator[str]:
        value: Any = config
        for name in option.path:
            value = getattr(value, name)
        yield from (indent + text for text in _yaml(option.path[-1], value, masked=True))

    return "\n".join(_sections(line, explained=False)) + "\n"


def _sections(line: Callable[[Option | Group, str], Iterator[str]], *, explained: bool) -> Iterator[str]:
    """The options outside sections, then each section; a group within a section counts as one option."""
    for member in OPTIONS.members.values():
        if isinstance(member, Option):
            yield from line(member, "")
            continue
        if explained:
            yield from ("", "", *_comment(member.description, ""))
        yield f"{member.path[-1]}:"
        for inner in member.members.values():
            yield from line(inner, "  ")


def _key(option: Option | Group) -> str:
    return ".".join(option.path)


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}## "
    return fill(text, WIDTH, initial_indent=start, subsequent_indent=start, break_long_words=False).split(
        "\n"
    )


def _yaml(name: str, value: Any, *, masked: bool = False) -> Iterator[str]:
    """`name: value`, on one line unless it is a list of groups."""
    written = _written(value, masked=masked)
    if isinstance(written, list) and any(isinstance(item, dict) for item in written):
        yield f"{name}:"
        yield from (f"  - {_flow(item)}" for item in written)
    else:
        yield f"{name}: {_flow(written)}"


def _written(value: Any, *, masked: bool = False) -> Any:
    """A value as plain data, the way one writes it in a file."""
    match value:
        case Secret():
            return value.masked() if masked else str(value)
        case None | bool() | float():
            return value
        case int() if type(value) is int:
            return value
        case msgspec.Struct():
            return {key: _written(getattr(value, key), masked=masked) for key in value.__struct_fields__}
        case dict():
            return {key: _written(item, masked=masked) for key, item in value.items()}
        case tuple():
            return [_written(item, masked=masked) for item in value]
        case _:
            return str(value)


def _flow(written: Any) -> str:
    """Plain data as YAML on one line."""
    match written:
        case dict():
            return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in written.items()) + "}"
        case list():
            return "[" + ", ".join(map(_flow, written)) + "]"
        case str() if re.fullmatch(r"[A-Za-z0-9/]([A-Za-z0-9_./:@-]*[A-Za-z0-9/])?", written):
            return json.dumps(written) if written.lower() in ("null", "true", "false") else written
        case _:
            return json.dumps(written)


# Reference


def reference() -> str:
    """All options in Markdown."""
    return "\n".join(_reference_lines()) + "\n"


def _reference_lines() -> Iterator[str]:
    yield from (
        "# Configuration reference",
        "",
        "Made from `homeserver/config/options.py` by `make reference`; do not edit.",
        "",
        "Options come from one YAML file and from the environment, which wins. A list in the environment is",
        "JSON, or its items parted by commas; a group is JSON. An empty variable counts as not set, and a",
        "`WEFT_…` variable that belongs to no option is an error, like an unknown option in the file.",
        "",
        "Durations are written `500ms`, `30s`, `5m`, `12h`, `7d`, `2w`; sizes `65536`, `100K`, `50M`, `2G`",
        "(powers of 1024). A secret may be written `file:/path/to/it` to be read from that file.",
        "`{data_dir}` and `{server_name}` in `public_url`, `storage.uri` and `media.path` stand for those",
        "options. Relative paths start at the folder in which the server is started.",
        "",
        "## General",
    )
    for member in OPTIONS.members.values():
        if isinstance(member, Option):
            yield from _entry(member, [member])
            continue
        yield from ("", f"## {member.path[-1]}", "", member.description)
        for inner in member.members.values():
            yield from _entry(inner, list(inner.options()) if isinstance(inner, Group) else [inner])


def _entry(option: Option | Group, leaves: list[Option]) -> Iterator[str]:
    yield from ("", f"### `{_key(option)}`", "", option.description, "")
    if isinstance(option, Option):
        yield f"- Takes {in_words(option.type)}."
        yield from _members(bare(option.type), "  ")
    if option.default is msgspec.NODEFAULT:
        yield "- Has to be given."
    else:
        yield f"- Default: `{_flow(_written(option.default))}`."
    yield f"- Environment: {', '.join(f'`{leaf.variable}`' for leaf in leaves)}."


def _members(kind: inspect.Type, indent: str) -> Iterator[str]:
    """The fields of the groups that an option is made of."""
    match kind:
        case inspect.VarTupleType(item_type=item):
            yield from _members(bare(item), indent)
        case inspect.DictType(value_type=item):
            yield from _members(bare(item), indent)
        case inspect.StructType(fields=fields):
            for field in fields:
                text = _description(field.type)
                must = " Required." if field.required else ""
                yield f"{indent}- `{field.name}`: {in_words(field.type)}. {text}{must}"
                yield from _members(bare(field.type), indent + "  ")


def _description(kind: inspect.Type) -> str:
    said = kind.extra_json_schema if isinstance(kind, inspect.Metadata) else None
    return str((said or {}).get("description", ""))


# JSON Schema


def json_schema() -> dict[str, Any]:
    """A JSON Schema of the configuration file."""
    options = list(OPTIONS.options())
    leaves, definitions = msgspec.json.schema_components(
        [option.annotation for option in options], schema_hook=_custom_schema
    )
    by_path = {option.path: leaf for option, leaf in zip(options, leaves, strict=True)}

    def of(group: Group) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        required: list[str] = []
        for name, member in group.members.items():
            if isinstance(member, Group):
                properties[name] = of(member)
            elif member.default is msgspec.NODEFAULT:
                properties[name] = by_path[member.path]
                required.append(name)
            else:
                properties[name] = {**by_path[member.path], "default": _written(member.default)}
        shape = {"type": "object", "description": group.description, "properties": properties}
        return {**shape, "additionalProperties": False} | ({"required": required} if required else {})

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of Weft",
        **of(OPTIONS),
        "$defs": definitions,
    }


def _custom_schema(cls: type[Any]) -> dict[str, Any]:
    """Durations and sizes may be bare numbers in YAML (`0`, `65536`); the other kinds of our own are text."""
    return {"type": ["string", "integer"] if issubclass(cls, Duration | Size) else "string"}


def main() -> None:
    """Write the documents that are kept in the repository; run from its top folder."""
    REFERENCE.parent.mkdir(parents=True, exist_ok=True)
    REFERENCE.write_text(reference(), "utf-8")
    SCHEMA.write_text(json.dumps(json_schema(), indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
