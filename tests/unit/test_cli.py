"""The command `weft`: what it prints, what it refuses, and its exit codes."""

import hashlib
import hmac
import io
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
import yaml

from homeserver import __version__
from homeserver.cli import main
from homeserver.config import load
from homeserver.shared_secret import registration_mac
from tests.server_process import free_port

REPOSITORY = Path(__file__).parents[2]
SECRET = "correct-horse-battery"
PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def _environment_without_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("WEFT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "weft.yaml"
    file.write_text(
        f"server_name: example.org\nregistration: {{shared_secret: {SECRET}}}\ndata_dir: {tmp_path}/data\n"
    )
    return file


def usage_error(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    code = caught.value.code
    assert isinstance(code, int)
    return code


# In general


def test_version_and_help_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage_error("--version") == 0
    assert capsys.readouterr().out == f"weft {__version__}\n"
    assert usage_error("--help") == 0
    told = capsys.readouterr().out
    for command in ("serve", "generate-config", "check-config", "register-user"):
        assert command in told


@pytest.mark.parametrize(
    "arguments", [[], ["bake"], ["serve", "--bake"], ["register-user"], ["generate-config"]]
)
def test_wrong_use_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert usage_error(*arguments) == 2
    assert "error:" in capsys.readouterr().err


def test_the_admin_guide_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    ([a-z][a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    assert "serve" in commands
    guide = (REPOSITORY / "docs/admin-guide.md").read_text("utf-8")
    assert [command for command in commands if f"weft {command}" not in guide] == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["check-config", "--dev"],
        ["generate-config", "--server-name", "example.org"],
        ["doctor", "--dev", "--json"],
    ],
)
def test_commands_end_quietly_when_nobody_takes_what_they_say(
    arguments: list[str], unbuffered: str, tmp_path: Path
) -> None:
    """`weft check-config | head -1`."""
    reads, writes = os.pipe()
    os.close(reads)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(REPOSITORY)}
    try:
        for errors in (subprocess.PIPE, writes):
            ended = subprocess.run(
                weft(*arguments), stdout=writes, stderr=errors, cwd=tmp_path, env=environment, check=False
            )
            # What prints the help takes no notice.
            assert ended.returncode == 1 or arguments == ["--help"]
            assert not ended.stderr
    finally:
        os.close(writes)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it is Linux that has a full device")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_that_nobody_can_take_what_a_command_says_is_told(unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            weft("check-config", "--dev"),
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
            env=environment,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == b"weft: standard output: No space left on device"
    assert b"Traceback" not in ended.stderr


# check-config


def test_check_config_shows_what_is_in_effect_without_secrets(
    config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_LOG_LEVEL", "error")
    assert main(["check-config", "-c", str(config_file)]) == 0
    shown = capsys.readouterr().out
    assert SECRET not in shown
    effective = yaml.safe_load(shown)
    assert effective["server_name"] == "example.org"
    assert effective["log"]["level"] == "error"
    assert effective["registration"]["shared_secret"] == "********"


def test_check_config_names_each_mistake_on_a_line_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text("server_name: example.org\nlissten: [a]\nlog: {level: loud}\n")
    assert main(["check-config", "-c", str(file)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        f"weft: {file}:2: lissten: unknown option; did you mean listen?",
        f"weft: {file}:3: log.level: takes debug, error, info or warning, not 'loud'",
    ]


def test_development_mode_needs_no_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--dev"]) == 0
    effective = yaml.safe_load(capsys.readouterr().out)
    assert effective["server_name"] == "localhost"
    assert effective["registration"]["enabled"] is True


# generate-config


def test_a_generated_configuration_is_private_usable_and_has_a_random_secret(tmp_path: Path) -> None:
    secrets = set()
    for name in ("a", "b"):
        file = tmp_path / name / "weft.yaml"
        assert main(["generate-config", "--server-name", "example.org", "-o", str(file)]) == 0
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        config = load(file, {})
        assert config.server_name == "example.org"
        assert config.registration.shared_secret is not None
        assert len(config.registration.shared_secret) >= 32
        secrets.add(config.registration.shared_secret)
    assert len(secrets) == 2


def test_generate_config_goes_to_standard_output_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--public-url",
        "http://localhost:9",
        "--listen",
        "127.0.0.1:9,[::1]:9",
        "--data-dir",
        "/srv/x",
    ]
    assert main(["generate-config", "--server-name", "example.org", *options]) == 0
    file = tmp_path / "weft.yaml"
    file.write_text(capsys.readouterr().out)
    config = load(file, {})
    assert config.public_url == "http://localhost:9"
    assert [str(address) for address in config.listen] == ["127.0.0.1:9", "[::1]:9"]
    assert config.data_dir == "/srv/x"


def test_generate_config_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text("precious")
    assert main(["generate-config", "--server-name", "example.org", "-o", str(file)]) == 1
    assert file.read_text() == "precious"
    assert f"{file} exists" in capsys.readouterr().err


def test_generate_config_refuses_what_the_server_would_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate-config", "--server-name", "https://example.org"]) == 2
    assert capsys.readouterr().err.startswith("weft: --server-name: takes a host name")
    assert main(["generate-config", "--server-name", "example.org", "--listen", "8008"]) == 2
    assert capsys.readouterr().err.startswith("weft: --listen: ")


# register-user


class SharedSecretServer(ThreadingHTTPServer):
    """Another homeserver with Synapse's published shared-secret protocol, written from its description."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _SharedSecretHandler)
        self.nonces: set[str] = set()
        self.accounts: dict[str, dict[str, Any]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _SharedSecretHandler(BaseHTTPRequestHandler):
    server: SharedSecretServer

    def do_GET(self) -> None:
        nonce = f"nonce-{len(self.server.nonces)}"
        self.server.nonces.add(nonce)
        self._answer(200, {"nonce": nonce})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        mac = hmac.new(SECRET.encode(), digestmod=hashlib.sha1)
        mac.update(body["nonce"].encode() + b"\x00" + body["username"].encode() + b"\x00")
        mac.update(body["password"].encode() + b"\x00" + (b"admin" if body["admin"] else b"notadmin"))
        if self.path != "/_synapse/admin/v1/register" or body["nonce"] not in self.server.nonces:
            self._answer(400, {"errcode": "M_UNKNOWN", "error": "unrecognised nonce"})
        elif body["mac"] != mac.hexdigest():
            self._answer(403, {"errcode": "M_UNKNOWN", "error": "HMAC incorrect"})
        elif body["username"] in self.server.accounts:
            self._answer(400, {"errcode": "M_USER_IN_USE", "error": "User ID already taken."})
        else:
            self.server.accounts[body["username"]] = body
            self._answer(200, {"user_id": f"@{body['username']}:example.org"})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[SharedSecretServer]:
    with SharedSecretServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def password_file(tmp_path: Path, password: str = "pizza") -> str:
    file = tmp_path / "password"
    file.write_text(f"{password}\n")
    return str(file)


def test_the_proof_is_that_of_the_published_protocol() -> None:
    # printf 'abcd\0pepper_roni\0pizza\0admin' | openssl dgst -sha1 -hmac shared_secret
    account = {"nonce": "abcd", "username": "pepper_roni", "password": "pizza"}
    assert (
        registration_mac("shared_secret", **account, admin=True) == "78611d3e2889563feeeed118aef1842146be1efa"
    )
    assert (
        registration_mac("shared_secret", **account, admin=False, user_type="bot")
        == "755acfffdbf2754439c160cc413d261900c8f483"
    )


@pytest.mark.parametrize("admin", [False, True])
def test_register_user_creates_the_account(
    admin: bool,
    server: SharedSecretServer,
    config_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    options = [
        "--url",
        server.url,
        "--password-file",
        password_file(tmp_path),
        *(["--admin"] if admin else []),
    ]
    assert main(["register-user", "-c", str(config_file), *options, "alice"]) == 0
    assert server.accounts["alice"]["password"] == "pizza"
    assert server.accounts["alice"]["admin"] is admin
    assert "@alice:example.org" in capsys.readouterr().out


def test_register_user_finds_the_server_by_the_configuration(
    server: SharedSecretServer, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_LISTEN", f"0.0.0.0:{server.server_address[1]}")
    arguments = ["--password-file", password_file(tmp_path), "@alice:example.org"]
    assert main(["register-user", "-c", str(config_file), *arguments]) == 0
    assert set(server.accounts) == {"alice"}


def test_what_the_server_refuses_is_told(
    server: SharedSecretServer, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["register-user", "-c", str(config_file), "--url", server.url]
    arguments += ["--password-file", password_file(tmp_path), "alice"]
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert capsys.readouterr().err == "weft: the server refused: User ID already taken. (M_USER_IN_USE)\n"
    config_file.write_text(config_file.read_text().replace(SECRET, "another-secret"))
    assert main(arguments) == 1
    assert capsys.readouterr().err == (
        "weft: the server refused: HMAC incorrect (M_UNKNOWN); it knows another registration.shared_secret "
        "than this configuration: name the one that it runs with (-c, --dev), or restart it\n"
    )


def test_a_server_that_does_not_answer_is_told(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--url", f"http://127.0.0.1:{free_port()}", "--password-file", password_file(tmp_path)]
    assert main(["register-user", "-c", str(config_file), *options, "alice"]) == 1
    told = capsys.readouterr().err
    assert "cannot reach the server" in told
    assert "is it running?" in told
    assert len(told.splitlines()) == 1
    assert "Errno" not in told


def test_an_address_without_a_scheme_is_refused(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--url", "localhost:8008", "--password-file", password_file(tmp_path)]
    assert main(["register-user", "-c", str(config_file), *options, "alice"]) == 2
    assert capsys.readouterr().err.startswith("weft: --url: takes an address such as http://")


@pytest.mark.parametrize("url", ["http://127.0.0.1:port", "http://[", "http://my server", "http://h/\u00fc"])
def test_what_is_no_address_is_refused(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    options = ["--url", url, "--password-file", password_file(tmp_path)]
    assert main(["register-user", "-c", str(config_file), *options, "alice"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("weft: --url: ")
    assert len(told.splitlines()) == 1


def test_what_listens_and_is_no_web_server_is_told(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connection.recv(4096)

        greeting = threading.Thread(target=greet)
        greeting.start()
        options = [
            "--url",
            f"http://127.0.0.1:{listener.getsockname()[1]}",
            "--password-file",
            password_file(tmp_path),
        ]
        assert main(["register-user", "-c", str(config_file), *options, "alice"]) == 1
        greeting.join()
    told = capsys.readouterr().err
    assert "is this Weft?" in told
    assert len(told.splitlines()) == 1


def test_a_password_that_is_no_text_is_refused(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latin").write_bytes("pässword\n".encode("latin-1"))
    options = ["--password-file", str(tmp_path / "latin")]
    assert main(["register-user", "-c", str(config_file), *options, "alice"]) == 1
    assert capsys.readouterr().err == "weft: the password is not UTF-8 text; nothing was done\n"


def test_a_file_that_cannot_be_read_is_named(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--password-file", f"{tmp_path}/absent"]
    assert main(["register-user", "-c", str(config_file), *options, "alice"]) == 1
    assert capsys.readouterr().err == f"weft: {tmp_path}/absent: No such file or directory\n"


def test_register_user_is_refused_before_anything_is_asked_when_it_cannot_work(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    arguments = ["register-user", "-c", str(config_file)]
    assert main([*arguments, "@alice:example.com"]) == 2
    assert "does not belong to this server, which is example.org" in capsys.readouterr().err
    assert main([*arguments, "alice"]) == 2
    assert "--password-file" in capsys.readouterr().err
    assert main([*arguments, "--password-file", password_file(tmp_path, ""), "alice"]) == 1
    assert "the password is empty" in capsys.readouterr().err
    assert main([*arguments, "--password-file", str(tmp_path / "absent"), "alice"]) == 1
    assert "absent" in capsys.readouterr().err
    config_file.write_text("server_name: example.org")
    assert main([*arguments, "alice"]) == 2
    assert "registration.shared_secret is not set" in capsys.readouterr().err


def weft(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "homeserver", *arguments]


def test_the_password_can_come_by_standard_input(server: SharedSecretServer, config_file: Path) -> None:
    command = weft(
        "register-user", "-c", str(config_file), "--url", server.url, "--password-file", "-", "alice"
    )
    subprocess.run(command, cwd=REPOSITORY, input=b"pizza\nrest\n", check=True, timeout=PATIENCE_S)
    assert server.accounts["alice"]["password"] == "pizza"


def type_into(command: list[str], typed: list[str]) -> tuple[int, str]:
    """Run a command on a terminal of its own and answer its prompts; the exit code and what was seen."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(REPOSITORY)
        os.execv(command[0], command)
    seen = b""
    while True:
        try:
            seen += os.read(terminal, 1024)
        except OSError:
            break
        if typed and seen.endswith(b": "):
            os.write(terminal, f"{typed.pop(0)}\n".encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), seen.decode()


def test_on_a_terminal_the_password_is_asked_twice_and_not_echoed(
    server: SharedSecretServer, config_file: Path
) -> None:
    command = weft("register-user", "-c", str(config_file), "--url", server.url, "alice")
    code, seen = type_into(command, ["pizza", "pasta"])
    assert code == 1
    assert "the two passwords differ" in seen
    assert server.accounts == {}
    code, seen = type_into(command, ["pizza", "pizza"])
    assert code == 0
    assert "pizza" not in seen
    assert server.accounts["alice"]["password"] == "pizza"


# serve


def wait_until_serving(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            with urlopen(f"http://127.0.0.1:{port}/_matrix/client/versions", timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.05)
    raise TimeoutError("the server did not answer")


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_until_it_is_told_to_end_and_ends_with_0(
    tmp_path: Path, ending: signal.Signals
) -> None:
    port = free_port()
    environment = {**os.environ, "WEFT_LISTEN": f"127.0.0.1:{port}", "WEFT_DATA_DIR": str(tmp_path / "data")}
    with subprocess.Popen(
        weft("serve", "--dev"), cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE
    ) as process:
        try:
            wait_until_serving(process, port)
            process.send_signal(ending)
            _, told = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in told.splitlines()] == ["listening", "stopping"]
    assert (tmp_path / "data" / "signing.key").exists()


def test_an_account_registered_on_a_running_server_can_log_in(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.setenv("WEFT_LISTEN", f"127.0.0.1:{port}")
    with subprocess.Popen(weft("serve", "-c", str(config_file)), cwd=REPOSITORY) as process:
        try:
            wait_until_serving(process, port)
            options = ["--admin", "--password-file", password_file(tmp_path, "Grüße, pizza")]
            assert main(["register-user", "-c", str(config_file), *options, "alice"]) == 0
            assert capsys.readouterr().out == "created @alice:example.org (administrator)\n"
            login = {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": "alice"},
                "password": "Grüße, pizza",
            }
            request = Request(f"http://127.0.0.1:{port}/_matrix/client/v3/login", json.dumps(login).encode())
            with urlopen(request, timeout=PATIENCE_S) as response:
                session = json.load(response)
            assert session["user_id"] == "@alice:example.org"
            path = f"http://127.0.0.1:{port}/_matrix/client/v3/devices"
            bearer = {"Authorization": f"Bearer {session['access_token']}"}
            with urlopen(Request(path, headers=bearer), timeout=PATIENCE_S) as response:
                devices = json.load(response)["devices"]
            assert [device["device_id"] for device in devices] == [session["device_id"]]
        finally:
            process.terminate()


def test_accounts_can_be_registered_faster_than_strangers_may_try(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("WEFT_LISTEN", f"127.0.0.1:{port}")
    monkeypatch.setenv("WEFT_RATE_LIMITS_REGISTRATION_CHECK_BURST", "1")
    monkeypatch.setenv("WEFT_RATE_LIMITS_REGISTRATION_CHECK_PER_SECOND", "5")
    with subprocess.Popen(weft("serve", "-c", str(config_file)), cwd=REPOSITORY) as process:
        try:
            wait_until_serving(process, port)
            options = ["-c", str(config_file), "--password-file", password_file(tmp_path)]
            assert [main(["register-user", *options, name]) for name in ("alice", "bob")] == [0, 0]
        finally:
            process.terminate()


def failed_start(environ: dict[str, str], *arguments: str) -> tuple[int, list[str]]:
    """Start a server that cannot start; its exit code and what it said."""
    command = weft("serve", *arguments)
    ended = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **environ},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return ended.returncode, ended.stderr.decode().splitlines()


def test_serve_with_a_wrong_configuration_ends_with_2(tmp_path: Path) -> None:
    code, told = failed_start({"WEFT_LISTEN": "0.0.0.0:8008"}, "--dev")
    assert code == 2
    assert told == [
        "weft: listen: development mode lets anyone in, so it cannot listen on 0.0.0.0:8008; "
        "use 127.0.0.1 or leave out --dev"
    ]


def test_serve_with_a_key_open_to_everybody_ends_with_1(tmp_path: Path) -> None:
    key = tmp_path / "signing.key"
    key.write_text("ed25519 a_Xk3d " + "A" * 43)
    key.chmod(0o644)
    listen = f"127.0.0.1:{free_port()}"
    code, told = failed_start({"WEFT_DATA_DIR": str(tmp_path), "WEFT_LISTEN": listen}, "--dev")
    assert code == 1
    assert told == [f"weft: every user of this machine can reach the signing key; run: chmod 600 {key}"]


def test_serve_where_it_may_not_keep_its_files_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder, store = tmp_path / "file" / "data", tmp_path / "file" / "weft.db"
    assert failed_start({"WEFT_DATA_DIR": str(folder)}, "--dev") == (
        1,
        [
            f"weft: data_dir: cannot make {folder}: Not a directory; "
            "make it yourself, and give it to the server's user"
        ],
    )
    environ = {"WEFT_DATA_DIR": str(tmp_path), "WEFT_STORAGE_URI": f"sqlite:///{store}"}
    assert failed_start(environ, "--dev") == (
        1,
        [
            f"weft: The store {store} cannot be opened: Not a directory; "
            "the file and its folder have to belong to the server's user"
        ],
    )


def test_serve_on_an_address_in_use_ends_with_1(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        code, told = failed_start({"WEFT_DATA_DIR": str(tmp_path), "WEFT_LISTEN": listen}, "--dev")
    assert code == 1
    assert told == [
        f"weft: listen: cannot listen on {listen}: something listens there already; "
        "stop it, or choose another port"
    ]


def test_serve_on_an_address_of_no_interface_ends_with_1(tmp_path: Path) -> None:
    listen = f"192.0.2.1:{free_port()}"
    environ = {"WEFT_DATA_DIR": str(tmp_path), "WEFT_METRICS_LISTEN": listen}
    code, told = failed_start({**environ, "WEFT_LISTEN": f"127.0.0.1:{free_port()}"}, "--dev")
    assert code == 1
    assert told == [
        f"weft: metrics.listen: cannot listen on {listen}: this machine has no such address; "
        "name one that it has, or 0.0.0.0 for all"
    ]


# mongo-shard-plan


def test_shard_plan_is_commands_for_the_shell_of_mongodb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mongo-shard-plan", "--database", "chat"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'sh.enableSharding("chat")'
    assert 'sh.shardCollection("chat.log", { shard: 1 })' in lines
    assert 'sh.shardCollection("chat.backup_keys", { user_id: 1, version: 1 })' in lines


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a/b", 'a"b', "$a"])
def test_shard_plan_of_what_can_be_no_database_is_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mongo-shard-plan", "--database", name]) == 2
    assert "--database" in capsys.readouterr().err


# replace-signing-key


def test_the_signing_key_is_replaced_on_purpose_only(
    tmp_path: Path, config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("WEFT_LISTEN", f"127.0.0.1:{port}")
    key = tmp_path / "data" / "signing.key"

    def serve_once() -> None:
        with subprocess.Popen(weft("serve", "-c", str(config_file)), cwd=REPOSITORY) as process:
            try:
                wait_until_serving(process, port)
            finally:
                process.terminate()

    serve_once()
    key.rename(tmp_path / "old.key")
    code, told = failed_start({}, "-c", str(config_file))
    assert code == 1
    assert len(told) == 1
    assert told[0].startswith(f"weft: there is no signing key at {key}")
    assert not key.exists()
    assert main(["replace-signing-key", "-c", str(config_file)]) == 0
    assert f"ed25519:{key.read_text().split()[1]}" in capsys.readouterr().out
    serve_once()
