"""The configuration: where it comes from, what is refused and how, what is made from it."""

import contextlib
import json
import re
from ipaddress import ip_address
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from homeserver.config import Config, ConfigError, load
from homeserver.config.declared import OPTIONS
from homeserver.config.documents import REFERENCE, SCHEMA, effective, json_schema, reference, sample
from homeserver.config.options import DEVELOPMENT_SECRET
from homeserver.config.units import Address, Duration, Network, Secret, SecretUri, Size

REPOSITORY = Path(__file__).parents[2]
SECRET = "correct-horse-battery"


def from_text(tmp_path: Path, text: str, **environ: str) -> Config:
    file = tmp_path / "weft.yaml"
    file.write_text(text, "utf-8")
    return load(file, environ)


def complaints(tmp_path: Path, text: str, **environ: str) -> list[str]:
    """What is wrong with a configuration, one line each, without the folder of the file."""
    with pytest.raises(ConfigError) as caught:
        from_text(tmp_path, text, **environ)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


# Where values come from


def test_a_server_name_is_all_it_takes() -> None:
    config = load(None, {"WEFT_SERVER_NAME": "example.org"})
    assert config == Config(server_name="example.org")
    assert config.listen == (Address("127.0.0.1", 8008),)
    assert config.storage.uri == "sqlite:///data/weft.db"
    assert config.public_url == "https://example.org"
    assert not config.registration.enabled


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    text = "server_name: example.org\nlimits: {max_upload_size: 1M, max_event_page: 20}"
    config = from_text(tmp_path, text, WEFT_LIMITS_MAX_UPLOAD_SIZE="2M", WEFT_LOG_LEVEL="debug")
    assert config.limits.max_upload_size == 2 * 1024**2
    assert config.limits.max_event_page == 20
    assert config.log.level == "debug"


def test_an_empty_variable_counts_as_not_set() -> None:
    config = load(None, {"WEFT_SERVER_NAME": "example.org", "WEFT_PUBLIC_URL": ""})
    assert config.public_url == "https://example.org"


def test_every_option_has_a_variable_of_its_own() -> None:
    variables = [option.variable for option in OPTIONS.options()]
    assert len(variables) == len(set(variables))
    assert "WEFT_STORAGE_URI" in variables
    assert "WEFT_RATE_LIMITS_MESSAGE_BURST" in variables


@pytest.mark.parametrize(
    "text", ["127.0.0.1:80,[::1]:81", '["127.0.0.1:80", "[::1]:81"]', "[127.0.0.1:80, '[::1]:81']"]
)
def test_a_list_in_the_environment_is_json_or_parted_by_commas(text: str) -> None:
    config = load(None, {"WEFT_SERVER_NAME": "example.org", "WEFT_LISTEN": text})
    assert config.listen == (Address("127.0.0.1", 80), Address("::1", 81))


def test_text_is_taken_as_it_is_written(tmp_path: Path) -> None:
    text = "server_name: 010\nrooms: {default_version: 11}\nturn: {username: on}\ndata_dir: 2026-01-01"
    config = from_text(tmp_path, text)
    assert config.server_name == "010"
    assert config.rooms.default_version == "11"
    assert config.turn.username == "on"
    assert config.data_dir == "2026-01-01"


def test_a_section_with_nothing_in_it_is_all_defaults(tmp_path: Path) -> None:
    assert from_text(tmp_path, "server_name: example.org\nauth:\n") == Config(server_name="example.org")


def test_part_of_a_rate_leaves_the_rest_of_it(tmp_path: Path) -> None:
    config = from_text(tmp_path, "server_name: example.org\nrate_limits: {message: {burst: 7}}")
    assert config.rate_limits.message.burst == 7
    assert config.rate_limits.message.per_second == Config(server_name="x").rate_limits.message.per_second


def test_null_switches_an_optional_value_off(tmp_path: Path) -> None:
    text = "server_name: example.org\nauth: {refresh_token_lifetime: 30d}"
    assert from_text(tmp_path, text).auth.refresh_token_lifetime == 30 * 86_400_000
    unset = from_text(tmp_path, text, WEFT_AUTH_REFRESH_TOKEN_LIFETIME="null")
    assert unset.auth.refresh_token_lifetime is None


def test_data_dir_and_server_name_are_filled_in() -> None:
    config = load(None, {"WEFT_SERVER_NAME": "example.org", "WEFT_DATA_DIR": "/srv/weft"})
    assert config.storage.uri == "sqlite:////srv/weft/weft.db"
    assert config.media.path == "/srv/weft/media"
    assert config.signing_key_path == Path("/srv/weft/signing.key")


# What is refused, and how


def test_all_problems_are_told_at_once_each_with_its_place_and_a_remedy(tmp_path: Path) -> None:
    text = "\n".join(
        (
            "server_name: https://example.org",
            "storge:",
            "  uri: x",
            "storage:",
            "  url: sqlite:///x",
            "  room_shards: 0",
            "limits:",
            "  max_body_size: 3 fortnights",
        )
    )
    assert complaints(tmp_path, text, WEFT_STORAGE_URL="x") == [
        "weft.yaml:2: storge: unknown option; did you mean storage?",
        "weft.yaml:5: storage.url: unknown option; did you mean storage.uri?",
        "environment: WEFT_STORAGE_URL: no option has this variable; did you mean WEFT_STORAGE_URI?",
        "weft.yaml:1: server_name: takes a host name such as example.org, without https:// and without "
        "a path, not 'https://example.org'",
        "weft.yaml:6: storage.room_shards: takes a whole number from 1 to 1024, not '0'",
        "weft.yaml:8: limits.max_body_size: takes a size such as 100K, 50M or 2G, at least 128K, "
        "not '3 fortnights' (not a number with one of the units K, M, G, T)",
    ]


def test_a_missing_server_name_says_where_it_goes(tmp_path: Path) -> None:
    (line,) = complaints(tmp_path, "log: {level: info}")
    assert line == (
        "weft.yaml: server_name: missing; "
        "set it in the configuration file, or set WEFT_SERVER_NAME in the environment"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("registration_shared_secret: abc", "did you mean registration.shared_secret?"),
        ("zebra: 1", "`weft generate-config` lists all options"),
        ("storage: sqlite", "this is a group; the options in it are uri, room_shards, user_shards"),
        ("registration: {enabled: yes}", "takes true or false, not 'yes'"),
        ("log: {level: loud}", "takes debug, error, info or warning, not 'loud'"),
        ("listen: ['127.0.0.1:1', localhost]", "([1]: not an address and a port)"),
        ("storage: {uri: 'postgres://localhost/weft'}", "storage.uri: begins with postgres; write sqlite:"),
        (
            "storage: {uri: 'mongodb://h1,h2/?replicaSet=a/b'}",
            "storage.uri: names no database; write mongodb:",
        ),
        ("storage: {uri: 'mongodb+srv://h'}", "storage.uri: names no database; write mongodb+srv:"),
        ("listen: []", "nothing to listen on"),
        ("rooms: {default_version: 13}", "takes one of the room versions 1, 2, 3,"),
        ("limits: {max_event_page: null}", "takes a whole number from 10 to 10000"),
        (
            "auth: {access_token_lifetime: 90}",
            "takes a duration such as 30s, 5m, 12h or 7d, at least 10s, not '90'",
        ),
        ("auth: {access_token_lifetime: 1s}", "at least 10s, not '1s'"),
        ("trusted_proxies: [10.0.0.1/8]", "has host bits set"),
        ("log: {level: info}\nlog: {level: error}", "given twice"),
        ("turn: {uris: ['turn:a']}", "needs turn.shared_secret, or turn.username and turn.password"),
        ("well_known: {support_contacts: [{role: m.role.admin}]}", "neither email_address nor matrix_id"),
        ("registration: {terms: [{id: tos, version: 1}]}", "missing required field `texts`"),
        ("registration: {shared_secret: short}", "too short; use at least 12"),
        (f"registration: {{shared_secret: {DEVELOPMENT_SECRET}}}", "everybody knows this one"),
        ("listen: " + "[" * 12 + "]" * 12, "nested too deeply"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, text: str, expected: str) -> None:
    lines = complaints(tmp_path, f"server_name: example.org\n{text}")
    assert len(lines) == 1
    assert re.match(r"weft\.yaml:\d+: ", lines[0]) or lines[0].startswith("weft.yaml: ")
    assert expected in lines[0]


@pytest.mark.parametrize(
    "name",
    [
        "example.org",
        "localhost",
        "localhost:8448",
        "192.0.2.1",
        "[2001:db8::1]:8448",
        "xn--bcher-kva.example",
    ],
)
def test_server_names_of_the_specification_are_taken(name: str) -> None:
    assert load(None, {"WEFT_SERVER_NAME": name}).server_name == name


@pytest.mark.parametrize("name", ["https://a", "a/b", "a b", "@a:b", "a:123456", "a" * 231, "a\n"])
def test_other_server_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="server_name"):
        load(None, {"WEFT_SERVER_NAME": name})


def test_broken_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    (line,) = complaints(tmp_path, "server_name: example.org\nlog: {level: info\nauth: 1")
    assert line.startswith("weft.yaml:3: not valid YAML: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot read the configuration: No such file"):
        load(tmp_path / "absent.yaml", {})


@given(st.text(max_size=200) | st.from_regex(r"\A([a-z_]{1,12}: ?[\[\]{}a-z0-9&*!|>'\"-]{0,12}\n){0,6}\Z"))
def test_any_text_is_a_configuration_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text, "utf-8", errors="replace")
    with contextlib.suppress(ConfigError):
        assert load(file, {"WEFT_SERVER_NAME": "example.org"}).server_name == "example.org"


# Secrets


def test_a_secret_may_stay_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    config = from_text(
        tmp_path, f"server_name: example.org\nregistration: {{shared_secret: 'file:{tmp_path}/secret'}}"
    )
    assert config.registration.shared_secret == SECRET


def test_a_secret_file_that_is_missing_or_empty_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for name, reason in (("absent", "absent: No such file or directory"), ("empty", "the secret is empty")):
        variable = {"WEFT_TURN_SHARED_SECRET": f"file:{tmp_path}/{name}"}
        (line,) = complaints(tmp_path, "server_name: example.org", **variable)
        assert reason in line


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    config = from_text(
        tmp_path,
        f"server_name: example.org\nregistration: {{shared_secret: {SECRET}}}\n"
        f"turn: {{password: {SECRET}}}\nstorage: {{uri: 'mongodb://weft:{SECRET}@db1,db2/weft?replicaSet=rs'}}",
    )
    assert SECRET not in effective(config)
    assert SECRET not in repr(config)
    assert "mongodb://********@db1,db2/weft?replicaSet=rs" in effective(config)


def test_a_secret_that_is_refused_is_not_shown_either(tmp_path: Path) -> None:
    text = (
        f"server_name: example.org\nregistration: {{shared_secret: [{SECRET}]}}\nstorage: {{uri: {SECRET}}}"
    )
    lines = complaints(tmp_path, text)
    assert len(lines) == 2
    assert SECRET not in "\n".join(lines)


# Development mode


def test_development_mode_lets_anyone_on_this_machine_in() -> None:
    config = Config.for_development("localhost", "/tmp/x", 8123)
    assert config.registration.enabled
    assert not config.registration.requires_token
    assert config.registration.shared_secret == "weft-dev-secret"
    assert not config.rate_limits.enabled
    assert config.listen == (Address("127.0.0.1", 8123),)
    assert config.public_url == "http://localhost:8123"
    assert config.storage.uri == "sqlite:////tmp/x/weft.db"


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:8008", "[::]:8008", "192.0.2.1:8008", "127.0.0.1:8008,example.org:80"]
)
def test_development_mode_is_refused_where_others_can_connect(listen: str) -> None:
    environ = {"WEFT_SERVER_NAME": "localhost", "WEFT_LISTEN": listen}
    with pytest.raises(ConfigError, match="listen: development mode"):
        load(None, environ, development=True)
    load(None, environ)


@pytest.mark.parametrize(
    ("bus", "problem"),
    [
        ("{uri: 'kafka://'}", "bus.uri: takes in-process: or kafka://host:port[,host:port…], not 'kafka://'"),
        ("{uri: 'kafka://user:secret@a:9092'}", "bus.uri: takes in-process: or kafka://host:port"),
        ("{sasl: {user: weft}}", "bus.sasl.user: needs bus.sasl.password beside it"),
        ("{tls: {enabled: true, certificate: a.pem}}", "bus.tls.certificate: needs bus.tls.key beside it"),
        (
            "{tls: {ca: ca.pem}}",
            "bus.tls.enabled: bus.tls.ca and bus.tls.certificate say nothing without TLS",
        ),
        ("{topic_prefix: 'a/b'}", "bus.topic_prefix: takes a name of letters, digits, dots, dashes"),
    ],
)
def test_a_bus_that_cannot_be_is_refused(tmp_path: Path, bus: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        from_text(tmp_path, f"server_name: example.org\nbus: {bus}")


def test_development_mode_keeps_what_it_has_no_opinion_on() -> None:
    environ = {"WEFT_SERVER_NAME": "localhost", "WEFT_LISTEN": "[::1]:9000", "WEFT_LOG_LEVEL": "debug"}
    config = load(None, environ, development=True)
    assert config.listen == (Address("::1", 9000),)
    assert config.log.level == "debug"
    assert config.registration.enabled
    assert config.public_url == "http://localhost:9000"
    said = {**environ, "WEFT_PUBLIC_URL": "http://matrix.test:8080"}
    assert load(None, said, development=True).public_url == "http://matrix.test:8080"


# Units


@given(st.integers(min_value=0, max_value=10**14))
def test_quantities_are_written_as_they_are_read(number: int) -> None:
    for kind in (Duration, Size):
        assert kind.parse(str(kind(number))) == number


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("0", 0), ("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("12 h", 43_200_000), ("7d", 604_800_000)],
)
def test_durations_become_milliseconds(text: str, milliseconds: int) -> None:
    assert Duration.parse(text) == milliseconds


@pytest.mark.parametrize(
    ("text", "number"), [("65536", 65536), ("1K", 1024), ("50M", 52_428_800), ("2G", 2**31)]
)
def test_sizes_become_bytes(text: str, number: int) -> None:
    assert Size.parse(text) == number


@pytest.mark.parametrize("text", ["", "5", "m", "5x", "-5m", "1.5h", "5m5s", "٣m", "9" * 40 + "s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a number with one of the units"):
        Duration.parse(text)


@pytest.mark.parametrize("text", ["", "8008", ":8008", "a:", "a:x", "a:65536", "::1:80", "[a]:80", "a:80:80"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an address and a port"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::]:65535", "example.org:80"])
def test_addresses_are_written_as_they_are_read(text: str) -> None:
    assert str(Address.parse(text)) == text


def test_a_network_knows_its_addresses() -> None:
    network = Network.parse("10.0.0.0/8")
    assert ip_address("10.1.2.3") in network
    assert ip_address("11.0.0.1") not in network
    assert str(Network.parse("::1")) == "::1"


def test_credentials_of_a_uri_are_masked() -> None:
    assert SecretUri("mongodb://a:b@h/x").masked() == "mongodb://********@h/x"
    assert SecretUri("sqlite:////srv/a@b").masked() == "sqlite:////srv/a@b"


# What is made from the declarations


def test_the_sample_file_is_a_configuration_with_what_was_chosen(tmp_path: Path) -> None:
    text = sample({"server_name": "example.org", "registration.shared_secret": Secret(SECRET)})
    config = from_text(tmp_path, text)
    assert config.registration.shared_secret == SECRET
    assert config == from_text(
        tmp_path, f"server_name: example.org\nregistration: {{shared_secret: {SECRET}}}"
    )


def test_the_defaults_shown_in_the_sample_file_are_the_real_ones(tmp_path: Path) -> None:
    text = sample({"server_name": "example.org"})
    uncommented = re.sub(r"^( *)# ", r"\1", text, flags=re.MULTILINE)
    written = yaml.safe_load(uncommented)
    assert set(written) == set(OPTIONS.members)
    assert from_text(tmp_path, uncommented) == Config(server_name="example.org")


def test_the_configuration_in_effect_can_be_read_again(tmp_path: Path) -> None:
    config = from_text(
        tmp_path,
        "server_name: example.org\nauth: {access_token_lifetime: 90s}\nlisten: ['[::1]:9100']\n"
        "registration: {terms: [{id: tos, version: 2, texts: {en: {name: 'Terms: ours', url: 'https://e.org/t'}}}]}",
    )
    assert from_text(tmp_path, effective(config)) == config


def test_every_option_is_explained() -> None:
    assert [option.key for option in OPTIONS.options() if not option.description.endswith(".")] == []


def test_the_schema_takes_the_sample_file_and_refuses_unknown_options(tmp_path: Path) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    uncommented = re.sub(r"^( *)# ", r"\1", sample({"server_name": "example.org"}), flags=re.MULTILINE)
    written = yaml.safe_load(uncommented)
    written["rooms"]["default_version"] = str(written["rooms"]["default_version"])
    jsonschema.validate(written, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**written, "zebra": 1}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"log": {}}, schema)


def test_the_documents_in_the_repository_are_those_of_the_declarations() -> None:
    assert (REPOSITORY / REFERENCE).read_text("utf-8") == reference()
    assert json.loads((REPOSITORY / SCHEMA).read_text("utf-8")) == json_schema()
