"""From a YAML file and the environment to a `Config`, or to a list of everything that is wrong with them.

Both sources give text; the option's declared type decides how it is read, so that `on`, `0123` or `12`
never turn into something the admin did not write. What the environment says wins over the file.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import inspect

from homeserver.config.declared import OPTIONS, Group, Option, bare, extra, in_words, takes
from homeserver.config.options import DEVELOPMENT_SECRET, Config
from homeserver.config.units import Secret
from homeserver.tls import WrongFile, served_with, trusting

PREFIX = "WEFT_"
TEST_PREFIX = "WEFT_TEST_"
"""Variables of this name tell the tests something, and are no options."""
MAX_NESTING = 10
SHORTEST_SECRET = 12
STORES = ("sqlite", "mongodb", "mongodb+srv")
"""What `storage.uri` may begin with."""

Tree = str | list[Any] | dict[str, Any] | None
"""What was written: text, or lists and groups of it; None for null."""


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong: where, with which option, what, and what to do."""

    place: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.key, self.message) if part)


class ConfigError(Exception):
    """The configuration cannot be used. The message has one line for each problem."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class _Given(msgspec.Struct, frozen=True):
    """The value of an option as it was written, and where."""

    value: Tree
    place: str


_Values = dict[tuple[str, ...], _Given]


def load(path: Path | None, environ: Mapping[str, str], *, development: bool = False) -> Config:
    """The configuration from the file at `path` (None for no file) and the `WEFT_…` variables of `environ`.

    `development` turns it into `Config.as_development`. Raises ConfigError with all problems at once.
    """
    problems: list[Problem] = []
    values = _from_file(path, problems) if path is not None else {}
    values |= _from_environment(environ, problems)
    converted: dict[tuple[str, ...], Any] = {}
    for option in OPTIONS.options():
        if option.path in values:
            _convert(option, values[option.path], converted, problems)
        elif option.default is msgspec.NODEFAULT:
            file = "set it in the configuration file" if path else "name a configuration file (-c FILE)"
            missing = f"missing; {file}, or set {option.variable} in the environment"
            problems.append(Problem(str(path or ""), option.key, missing))
    if problems:
        raise ConfigError(problems)

    config: Config = _assembled(OPTIONS, converted)
    for option_path, message in _contradictions(config):
        place = values[option_path].place if option_path in values else str(path or "")
        problems.append(Problem(place, ".".join(option_path), message))
    if problems:
        raise ConfigError(problems)
    if not development:
        return config
    try:
        return config.as_development()
    except ValueError as error:
        raise ConfigError([Problem("", "listen", f"{error}; use 127.0.0.1 or leave out --dev")]) from error


# The file


def _from_file(path: Path, problems: list[Problem]) -> _Values:
    try:
        root = yaml.compose(path.read_text("utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError([Problem(str(path), "", f"cannot read the configuration: {reason}")]) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        message = f"not valid YAML: {error.problem}; check the indentation and quotes around this line"
        raise ConfigError([Problem(f"{path}:{line}", "", message)]) from error
    except yaml.YAMLError as error:
        raise ConfigError([Problem(str(path), "", f"not valid YAML: {error}")]) from error
    values: _Values = {}
    if root is not None:
        _collect(root, OPTIONS, str(path), values, problems)
    return values


def _collect(node: yaml.Node, group: Group, file: str, values: _Values, problems: list[Problem]) -> None:
    """Put the options under `node`, which stands for `group`, into `values`."""
    place = f"{file}:{node.start_mark.line + 1}"
    if _is_null(node):
        return
    if not isinstance(node, yaml.MappingNode):
        names = ", ".join(group.members)
        problems.append(
            Problem(place, ".".join(group.path), f"this is a group; the options in it are {names}")
        )
        return
    seen: set[str] = set()
    for key_node, value_node in node.value:
        name = str(key_node.value)
        place = f"{file}:{key_node.start_mark.line + 1}"
        key = ".".join((*group.path, name))
        member = group.members.get(name)
        if name in seen:
            problems.append(Problem(place, key, "given twice; remove one of them"))
        elif isinstance(member, Group):
            _collect(value_node, member, file, values, problems)
        elif isinstance(member, Option):
            try:
                values[member.path] = _Given(_tree(value_node), place)
            except ValueError as error:
                problems.append(Problem(place, key, str(error)))
        else:
            known = {"_".join(option.path): option.key for option in OPTIONS.options()}
            siblings = {name: ".".join((*group.path, name)) for name in group.members}
            near = _nearest(name, siblings) or _nearest("_".join((*group.path, name)), known)
            problems.append(Problem(place, key, f"unknown option; {_hint(near)}"))
        seen.add(name)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _tree(node: yaml.Node, depth: int = 0) -> Tree:
    if depth > MAX_NESTING:
        raise ValueError("nested too deeply")
    if isinstance(node, yaml.SequenceNode):
        return [_tree(item, depth + 1) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _tree(value, depth + 1) for key, value in node.value}
    return None if _is_null(node) else str(node.value)


# The environment


def _from_environment(environ: Mapping[str, str], problems: list[Problem]) -> _Values:
    options = {option.variable: option for option in OPTIONS.options()}
    values: _Values = {}
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or name.startswith(TEST_PREFIX) or not text.strip():
            continue
        option = options.get(name)
        if option is None:
            near = _nearest(name, {variable: variable for variable in options})
            problems.append(Problem("environment", name, f"no option has this variable; {_hint(near)}"))
            continue
        try:
            values[option.path] = _Given(_from_variable(text, option), f"environment: {name}")
        except (yaml.YAMLError, ValueError):
            problems.append(Problem("environment", name, f"not a JSON value: takes {in_words(option.type)}"))
    return values


def _from_variable(text: str, option: Option) -> Tree:
    """A list is JSON, or items parted by commas; a group is JSON; everything else is text as it stands."""
    if takes(option.type, inspect.VarTupleType, inspect.DictType):
        if text.lstrip()[0] + text.rstrip()[-1] in ("[]", "{}"):
            root = yaml.compose(text, yaml.SafeLoader)
            assert root is not None, "a document that begins with a bracket is not empty"
            return _tree(root)
        return [item.strip() for item in text.split(",") if item.strip()]
    return None if text == "null" and takes(option.type, inspect.NoneType) else text


# Suggestions


def _nearest(name: str, known: Mapping[str, str]) -> str | None:
    """What stands in `known` under the name most like this one."""
    close = get_close_matches(name.lower(), {key.lower(): key for key in known}, n=1, cutoff=0.7)
    return next((value for key, value in known.items() if key.lower() in close), None)


def _hint(near: str | None) -> str:
    return f"did you mean {near}?" if near else "`weft generate-config` lists all options"


# Values


def _convert(
    option: Option, given: _Given, converted: dict[tuple[str, ...], Any], problems: list[Problem]
) -> None:
    try:
        value = msgspec.convert(given.value, option.annotation, strict=False, dec_hook=_parse)
    except msgspec.ValidationError as error:
        words = f"takes {in_words(option.type)}"
        if isinstance(given.value, str) and not _is_secret(option):
            words += f", not {given.value!r}"
        if error.__cause__ is not None or isinstance(given.value, list | dict):
            words += f" ({_reason(error)})"
        problems.append(Problem(given.place, option.key, words))
        return
    least = extra(option.type, "least")
    if least is not None and value < type(value).parse(least):
        problems.append(
            Problem(given.place, option.key, f"takes {in_words(option.type)}, not {given.value!r}")
        )
        return
    converted[option.path] = value


def _reason(error: msgspec.ValidationError) -> str:
    """What is wrong, and with which part of a list or a group."""
    reason, _, part = str(error).partition(" - at `$")
    return f"{part.strip('.`')}: {reason}" if part else reason


def _parse(cls: type[Any], written: object) -> Any:
    """Make a value of one of the types in `units`."""
    if not isinstance(written, str):
        raise ValueError("not text")
    return cls.parse(written)


def _is_secret(option: Option) -> bool:
    kind = bare(option.type)
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return any(isinstance(each, inspect.CustomType) and issubclass(each.cls, Secret) for each in kinds)


def _assembled(group: Group, values: Mapping[tuple[str, ...], Any]) -> Any:
    """The section that `group` stands for, with `values` in place of its defaults."""
    given: dict[str, Any] = {}
    for name, member in group.members.items():
        if isinstance(member, Group):
            given[name] = _assembled(member, values)
        elif member.path in values:
            given[name] = values[member.path]
    return Config(**given) if group.default is None else msgspec.structs.replace(group.default, **given)


def _contradictions(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Values that are right alone and wrong together, or that no server should run with."""
    secret = config.registration.shared_secret
    if secret == DEVELOPMENT_SECRET:
        yield ("registration", "shared_secret"), "everybody knows this one; choose a random secret"
    elif secret is not None and len(secret) < SHORTEST_SECRET:
        yield (
            ("registration", "shared_secret"),
            f"too short; use at least {SHORTEST_SECRET} random characters",
        )
    if not config.listen:
        yield ("listen",), "nothing to listen on; give at least one address, such as 127.0.0.1:8008"
    scheme, _, store = config.storage.uri.partition(":")
    if scheme not in STORES:
        yield (
            ("storage", "uri"),
            f"begins with {scheme}; write sqlite:///<path> or mongodb://<host>/<database>",
        )
    elif scheme != "sqlite" and not store.removeprefix("//").partition("/")[2].partition("?")[0]:
        yield ("storage", "uri"), f"names no database; write {scheme}://<host>/<database>, then the options"
    sasl = config.bus.sasl
    if (sasl.user is None) != (sasl.password is None):
        yield ("bus", "sasl", "user"), "needs bus.sasl.password beside it, and the password the user"
    tls = config.bus.tls
    if (tls.certificate is None) != (tls.key is None):
        yield ("bus", "tls", "certificate"), "needs bus.tls.key beside it, and the key the certificate"
    if not tls.enabled and (tls.ca or tls.certificate):
        yield (
            ("bus", "tls", "enabled"),
            "bus.tls.ca and bus.tls.certificate say nothing without TLS; set it to true",
        )
    yield from _wrong_certificates(config)
    turn = config.turn
    if turn.uris and turn.shared_secret is None and (turn.username is None or turn.password is None):
        yield ("turn", "uris"), "needs turn.shared_secret, or turn.username and turn.password, beside it"
    for contact in config.well_known.support_contacts:
        if contact.email_address is None and contact.matrix_id is None:
            yield (
                ("well_known", "support_contacts"),
                f"{contact.role} has neither email_address nor matrix_id",
            )


def _wrong_certificates(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with the files that connections to and from other servers are made safe with."""
    tls = config.federation.tls
    certificate_option = ("federation", "tls", "certificate")
    if (tls.certificate is None) != (tls.key is None):
        yield certificate_option, "needs federation.tls.key beside it, and the key the certificate"
    elif tls.certificate is not None and not config.federation.listen:
        yield certificate_option, "is for federation.listen, which names no address; add one"
    elif tls.certificate is not None and tls.key is not None:
        try:
            served_with(tls.certificate, tls.key)
        except WrongFile as error:
            yield certificate_option, str(error)
    if config.egress.ca is not None:
        try:
            trusting(config.egress.ca)
        except WrongFile as error:
            yield ("egress", "ca"), str(error)
