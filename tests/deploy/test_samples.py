"""The sample files of `deploy/`: the programs that read them take them, and serve clients by them."""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from federation.transactions import MAX_BYTES
from tests.real_parts import proxy as proxy_module
from tests.real_parts.proxy import NoProgram, Proxy, around_site, program
from tests.server_process import REPOSITORY, free_port

DEPLOY = REPOSITORY / "deploy"
PATIENCE_S = 20.0
SLOW_S = 2.5


def needed(name: str) -> list[str]:
    try:
        return program(name)
    except NoProgram as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate that signs itself, in the files that the samples name."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
            ),
            *("-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")),
        ],
        check=True,
        capture_output=True,
    )
    both = (folder / "privkey.pem").read_text() + (folder / "fullchain.pem").read_text()
    (folder / "weft.pem").write_text(both)
    return folder


def checked(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nginx_takes_its_sample(certificate: Path, tmp_path: Path) -> None:
    nginx = needed("nginx")
    site = (DEPLOY / "nginx.conf").read_text().replace("/etc/ssl/weft", str(certificate))
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(around_site(site, tmp_path))
    checked(*nginx, "-t", "-q", "-p", str(tmp_path), "-e", "stderr", "-c", str(configuration))


def test_haproxy_takes_its_sample(certificate: Path, tmp_path: Path) -> None:
    haproxy = needed("haproxy")
    text = (DEPLOY / "haproxy.cfg").read_text().replace("/etc/ssl/weft", str(certificate))
    text = text.replace("    user haproxy\n    group haproxy\n", "")
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(text)
    checked(*haproxy, "-c", "-q", "-f", str(configuration))


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on the PATH")
    unit = tmp_path / "weft.service"
    unit.write_text((DEPLOY / "weft.service").read_text().replace("/opt/weft/.venv/bin/weft", "/bin/true"))
    checked("systemd-analyze", "verify", str(unit))


# Through them


class _Replica(BaseHTTPRequestHandler):
    """Tells what of a request has arrived, after a while if the path says `slow`."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def _tell(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        if "slow" in self.path:
            time.sleep(SLOW_S)
        told = {
            "replica": self.server.server_address[1],
            "path": self.path,
            "length": length,
            "client": ",".join(self.headers.get_all("X-Forwarded-For", [])),
        }
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = _tell

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Quiet: health checks hang up."""


class Replicas:
    """So many servers, each on a port of its own."""

    def __init__(self, count: int) -> None:
        self.servers = [_Server(("127.0.0.1", 0), _Replica) for _ in range(count)]
        self.addresses = [f"127.0.0.1:{server.server_address[1]}" for server in self.servers]
        for server in self.servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def replicas() -> Iterator[Replicas]:
    running = Replicas(3)
    yield running
    running.stop()


def told(
    proxy: Proxy, path: str, token: str = "t", method: str = "GET", body: bytes | None = None
) -> dict[str, object]:
    request = Request(proxy.url + path, body, {"Authorization": f"Bearer {token}"}, method=method)
    with urlopen(request, timeout=PATIENCE_S) as response:
        answer: dict[str, object] = json.load(response)
        return answer


@pytest.fixture(params=["haproxy", "nginx"])
def kind(request: pytest.FixtureRequest) -> str:
    needed(request.param)
    return str(request.param)


@pytest.fixture
def proxy(kind: str, replicas: Replicas) -> Iterator[Proxy]:
    """With the sample's own way to choose a replica."""
    running = Proxy(kind, replicas.addresses, round_robin=False)
    yield running
    running.stop()


def test_a_client_comes_to_the_same_replica_and_clients_to_all(proxy: Proxy) -> None:
    chosen = {token: {told(proxy, "/x", token)["replica"] for _ in range(3)} for token in map(str, range(40))}
    assert all(len(replicas) == 1 for replicas in chosen.values())
    assert len(set.union(*chosen.values())) == 3


def test_round_robin_sends_a_client_to_all_replicas(kind: str, replicas: Replicas) -> None:
    proxy = Proxy(kind, replicas.addresses)
    try:
        assert len({told(proxy, "/x")["replica"] for _ in range(6)}) == 3
    finally:
        proxy.stop()


def test_paths_arrive_as_they_were_sent(proxy: Proxy) -> None:
    path = "/_matrix/client/v3/rooms/%21a%2Fb%3Alocalhost/state/m.room.name/%2e%2e//x?since=a%2Bb"
    assert told(proxy, path)["path"] == path


def test_the_client_address_arrives_behind_what_the_client_says(kind: str, proxy: Proxy) -> None:
    request = Request(f"{proxy.url}/x", headers={"X-Forwarded-For": "6.6.6.6"})
    with urlopen(request, timeout=PATIENCE_S) as response:
        client = json.load(response)["client"]
    assert client.replace(" ", "").split(",")[-1] == "127.0.0.1"


def test_uploads_may_be_larger_than_other_bodies(proxy: Proxy) -> None:
    body = bytes(3 << 20)
    assert told(proxy, "/_matrix/media/v3/upload", method="POST", body=body)["length"] == len(body)
    with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as connection:
        connection.sendall(
            b"PUT /_matrix/client/v3/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert connection.recv(100).split()[1] == b"413"


def test_transactions_of_other_servers_may_be_as_large_as_weft_takes_them(proxy: Proxy) -> None:
    body = bytes(MAX_BYTES)
    path = "/_matrix/federation/v1/send/1"
    assert told(proxy, path, method="PUT", body=body)["length"] == len(body)


@pytest.mark.parametrize("path", ["v3/sync", "v3/rooms/!a:b/join", "v3/join/%23a:b"])
def test_nginx_waits_for_what_takes_long(
    path: str, replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a second in the place of its 75 for everything else."""
    needed("nginx")
    sample = proxy_module.nginx_configuration

    def shortened(*arguments: Any, **options: Any) -> str:
        text = sample(*arguments, **options)
        assert "proxy_read_timeout 75s;" in text
        return text.replace("proxy_read_timeout 75s;", "proxy_read_timeout 1s;")

    monkeypatch.setattr(proxy_module, "nginx_configuration", shortened)
    running = Proxy("nginx", replicas.addresses)
    try:
        assert told(running, f"/_matrix/client/{path}?slow", method="POST", body=b"")["length"] == 0
        with pytest.raises(HTTPError) as given_up:
            told(running, "/_matrix/client/v3/search?slow", method="POST", body=b"")
        assert given_up.value.code == 504
    finally:
        running.stop()


def test_internal_routes_are_not_reached_from_outside(proxy: Proxy) -> None:
    for path in ("/_weft/internal/handled/x/0/0", "/%5fweft/internal/x"):
        with pytest.raises(HTTPError) as refused:
            told(proxy, path, method="POST", body=b"")
        assert refused.value.code == 404, path


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_dead_replica_is_not_noticed(kind: str, method: str, replicas: Replicas) -> None:
    dead = f"127.0.0.1:{free_port()}"
    proxy = Proxy(kind, [dead, *replicas.addresses])
    try:
        for number in range(12):
            assert told(proxy, f"/x/{number}", method=method, body=b"{}" if method == "PUT" else None)
    finally:
        proxy.stop()
