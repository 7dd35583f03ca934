"""A real Sydent for the tests, the reference identity server, installed by package name.

It listens on the loopback address, without TLS: what is to be an identity server to others passes requests on
to `base`. Its mails come into the `Mailbox` of a test.
"""

import asyncio
import re
import subprocess
import sys
from configparser import RawConfigParser
from fcntl import LOCK_EX, flock
from pathlib import Path

from tests import waiting
from tests.real_parts.cache import CACHE
from tests.real_parts.peer_process import PeerProcess
from tests.server_process import free_port

VERSION = "2.6.1"
NEEDED = (f"matrix-sydent[prometheus]=={VERSION}", "canonicaljson==1.5.0")
"""Without the extra it does not start, and with a later encoder it cannot check what a homeserver signed."""

MAIL = """\
From: %(from)s
To: %(to)s
Subject: a mail

token=%(token)s
"""
INVITATION = MAIL + "key=%(ephemeral_private_key)s\nroom=%(room_name)s\nsender=%(sender_display_name)s\n"


def python() -> Path:
    """What runs it; installs it if need be."""
    home = CACHE / f"sydent-{VERSION}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / "sydent.lock").open("w") as lock:
        flock(lock, LOCK_EX)  # Of two test runs at once, one installs.
        if not (home / "ready").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
            pip = [home / "bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
            subprocess.run([*pip, *NEEDED], check=True)
            (home / "ready").touch()
    return home / "bin/python"


class Mailbox:
    """Takes all mail that is sent to it, whoever it is for."""

    def __init__(self) -> None:
        self.mails: list[str] = []
        self._server: asyncio.Server

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        self._server.close()

    async def next(self) -> dict[str, str]:
        """What the next mail says, line by line, and `to` whom."""
        await waiting.until(lambda: bool(self.mails), "there is mail")
        mail = self.mails.pop(0)
        return {
            "to": re.findall(r"^To: (.*)$", mail, re.M)[0],
            **dict(re.findall(r"^(\w+)=(.*)$", mail, re.M)),
        }

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := (await reader.readline()).decode().strip().upper():
            if line == "DATA":
                writer.write(b"354 go on\r\n")
                mail = await reader.readuntil(b"\r\n.\r\n")
                self.mails.append(mail.decode().replace("\r\n", "\n"))
            writer.write(b"221 bye\r\n" if line == "QUIT" else b"250 well\r\n")
        writer.close()


class Sydent:
    """A process with data in a folder."""

    def __init__(self, folder: Path, name: str, mail_port: int) -> None:
        """`name`: how it calls itself, and where it is reached with TLS."""
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        templates = folder / "res" / "matrix-org"
        templates.mkdir(parents=True)
        for template, text in (("invite", INVITATION), ("verification", MAIL)):
            (templates / f"{template}_template.eml").write_text(text)
        (templates / "verify_response_template.html").write_text("%(message)s")
        config = RawConfigParser()
        config.read_dict(
            {
                "general": {
                    "server.name": name,
                    "templates.path": str(folder / "res"),
                    "pidfile.path": str(folder / "pid"),
                    "ip.whitelist": "127.0.0.0/8",
                },
                "db": {"db.file": str(folder / "sydent.db")},
                "http": {
                    "clientapi.http.bind_address": "127.0.0.1",
                    "clientapi.http.port": str(port),
                    "client_http_base": f"https://{name}",
                    "federation.verifycerts": "False",
                },
                "email": {
                    "email.smtphost": "127.0.0.1",
                    "email.smtpport": str(mail_port),
                    "email.from": "identity@example.org",
                    "email.hostname": "localhost",
                },
            }
        )
        with (folder / "sydent.conf").open("w") as file:
            config.write(file)
        self._process = PeerProcess(
            folder,
            [python(), "-m", "sydent.sydent"],
            {"SYDENT_CONF": str(folder / "sydent.conf")},
            f"{self.base}/_matrix/identity/v2",
        )

    @property
    def log(self) -> str:
        return self._process.printed

    def start(self) -> None:
        """Start, and return once it answers."""
        self._process.start()

    def stop(self) -> None:
        self._process.stop()
