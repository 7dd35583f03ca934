"""A real HAProxy or nginx for the tests, as configured in `deploy/`, before servers given by address.

Of the sample files nothing is changed but names: where to listen (plain HTTP, on the loopback interface), the
servers, and, unless asked otherwise, that requests go round the servers one after another.

The program is the one on the PATH, or else that of Debian's package, fetched once into the cache; that needs
no root.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from functools import cache
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from tests.real_parts.cache import CACHE
from tests.server_process import REPOSITORY, free_port

PACKAGES = {
    "haproxy": ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"),
    "nginx": ("nginx",),
}
"""Of Debian and Ubuntu: the program, and the libraries that few machines have."""
STARTUP_SECONDS = 20.0


class NoProgram(Exception):
    """There is no such program here, and it cannot be had."""


@cache
def program(name: str) -> list[str]:
    """The command that runs "haproxy" or "nginx". Raises NoProgram."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is not None:
        return [found]
    folder = CACHE / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        flock(lock, LOCK_EX)  # Of two test runs at once, one installs.
        if not folder.exists():
            _install(name, folder)
    libraries = ":".join(sorted({str(file.parent) for file in folder.rglob("*.so*")}))
    return ["env", f"LD_LIBRARY_PATH={libraries}", str(folder / "usr/sbin" / name)]


def _install(name: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch, "root")
        try:
            download(PACKAGES[name], Path(scratch))
            for package in Path(scratch).glob("*.deb"):
                run("dpkg", "-x", str(package), str(made))
        except (OSError, subprocess.CalledProcessError) as error:
            output = getattr(error, "stderr", "") or ""
            raise NoProgram(f"no {name} on the PATH, and Debian's cannot be had: {error} {output}") from error
        made.rename(folder)


def download(packages: Sequence[str], folder: Path) -> None:
    """Put the packages into a folder, by lists of our own where the machine's are missing or old."""
    try:
        run("apt-get", "download", *packages, cwd=folder)
    except subprocess.CalledProcessError:
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True)
        own = ("-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={folder}", "-o", "APT::Sandbox::User=")
        run("apt-get", *own, "update")
        run("apt-get", *own, "download", *packages, cwd=folder)


def run(*command: str, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)


# The configurations


def haproxy_configuration(addresses: Sequence[str], port: int, *, round_robin: bool) -> str:
    """The sample for HAProxy with these servers, listening on a port of the loopback interface."""
    text = (REPOSITORY / "deploy/haproxy.cfg").read_text()
    text = _changed(text, r"^    bind .*$", f"    bind 127.0.0.1:{port}")
    text = _changed(text, r"^    (user|group) .*\n", "")
    text = _changed(text, r"^    maxconn .*$", "    maxconn 4000")
    servers = "\n".join(f"    server weft{number} {address}" for number, address in enumerate(addresses))
    text = _changed(text, r"^    server weft1 .*$", servers)
    if round_robin:
        text = _changed(text, r"^    balance .*\n    hash-type .*$", "    balance roundrobin")
    return text


def nginx_configuration(addresses: Sequence[str], port: int, folder: Path, *, round_robin: bool) -> str:
    """The sample for nginx, as the one site of an nginx that keeps its files in a folder."""
    site = (REPOSITORY / "deploy/nginx.conf").read_text()
    site = _changed(site, r"^    listen \[::\].*\n", "")
    site = _changed(site, r"^    listen 443 .*$", f"    listen 127.0.0.1:{port};")
    site = _changed(site, r"^    ssl_certificate.*\n", "")
    site = _changed(site, r"^    server_name matrix.*$", "    server_name 127.0.0.1;")
    servers = "\n".join(f"    server {address} max_fails=2 fail_timeout=5s;" for address in addresses)
    site = _changed(site, r"^    server 127.0.0.1:8008 .*$", servers)
    if round_robin:
        site = _changed(site, r"^    hash .*\n", "")
    return f"daemon off;\nworker_processes 1;\nerror_log stderr;\n{around_site(site, folder)}"


def around_site(site: str, folder: Path) -> str:
    """A configuration of nginx with this site, whose files are all in a folder, where anybody may write."""
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"pid {folder}/pid;\nevents {{ worker_connections 4096; }}\n"
        f"http {{\naccess_log off;\n{temporary}{site}\n}}\n"
    )


def _changed(text: str, pattern: str, by: str) -> str:
    """Raises AssertionError when the sample has no such line any more."""
    changed, count = re.subn(pattern, lambda _: by, text, flags=re.MULTILINE)
    assert count, f"deploy/ has no line like {pattern}"
    return changed


# A running one


class Proxy:
    """A proxy before servers (host:port each), started; `url` is where clients find them."""

    def __init__(self, name: str, addresses: Sequence[str], *, round_robin: bool = True) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = Path(tempfile.mkdtemp(prefix=f"weft-{name}-"))
        # Started by root, nginx works as somebody else, who writes larger bodies to files there.
        self._folder.chmod(0o755)
        self._log = self._folder / "log"
        file = self._folder / "configuration"
        if name == "haproxy":
            file.write_text(haproxy_configuration(addresses, self.port, round_robin=round_robin))
            command = [*program("haproxy"), "-db", "-f", str(file)]
        else:
            file.write_text(nginx_configuration(addresses, self.port, self._folder, round_robin=round_robin))
            command = [*program("nginx"), "-p", str(self._folder), "-c", str(file), "-e", "stderr"]
        if setpriv := shutil.which("setpriv"):
            # It ends with the tests even if they are killed.
            command[:0] = [setpriv, "--pdeathsig", "TERM"]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until(self._answers)
        except BaseException:
            self.stop()
            raise

    @property
    def log(self) -> str:
        """What the proxy said."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        """Whether something comes back, be it that no server is there yet."""
        try:
            with urlopen(f"{self.url}/_matrix/client/versions", timeout=5):
                return True
        except HTTPError:
            return True
        except OSError:
            return False

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + STARTUP_SECONDS
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the proxy did not come up:\n{self.log[-4000:]}")
            time.sleep(0.02)


@contextmanager
def proxy_before(
    addresses: Sequence[str], name: str = "haproxy", *, round_robin: bool = True
) -> Iterator[Proxy]:
    """A proxy before servers for as long as it is needed."""
    proxy = Proxy(name, addresses, round_robin=round_robin)
    try:
        yield proxy
    finally:
        proxy.stop()
