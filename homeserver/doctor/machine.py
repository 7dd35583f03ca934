"""This machine: folders, the key file, free disk, and whether clients find the way in."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from homeserver.config import Config
from homeserver.doctor.findings import Finding, fail, ok, warn
from homeserver.key_file import KeyFileError, load_or_create

ANSWER_SECONDS = 10.0
LITTLE_DISK, TOO_LITTLE_DISK = 2 << 30, 200 << 20
VERSIONS = "/_matrix/client/versions"


def file_findings(config: Config) -> Iterator[Finding]:
    """The data folder, the media folder and the signing key."""
    folder = Path(config.data_dir)
    yield from _folder("data_dir", folder)
    if absent(folder):
        yield warn("data_dir", f"there is no {folder}", "the first start makes it")
    elif os.access(folder, os.R_OK) and folder.stat().st_mode & stat.S_IROTH:
        yield warn("data_dir", f"every user of this machine can read {folder}", f"chmod 700 {folder}")
    yield from _folder("media.path", Path(config.media.path))
    yield _key(config.signing_key_path)


def absent(path: Path) -> bool:
    """Whether there is nothing at a path; where this user may not look, there may be something."""
    try:
        return not path.exists()
    except PermissionError:
        return False


def _folder(subject: str, folder: Path) -> Iterator[Finding]:
    """Whether this user can keep files in a folder, which may have to be made."""
    nearest = next(path for path in (folder, *folder.parents) if not absent(path))
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        yield fail(
            subject, f"{folder} cannot be written by this user", "run this as the server's user, or chown"
        )
        return
    free = shutil.disk_usage(nearest).free
    text = f"{free / (1 << 30):.1f} GiB free for {folder}"
    if free < TOO_LITTLE_DISK:
        yield fail(subject, text, "free some: writes fail when the disk is full")
    elif free < LITTLE_DISK:
        yield warn(subject, text, "free some before it is full")
    else:
        yield ok(subject, text)


def _key(path: Path) -> Finding:
    if absent(path):
        return warn(
            "signing key", f"there is no {path}", "the very first start makes it; a replica needs a copy"
        )
    try:
        key = load_or_create(path)
    except KeyFileError as error:
        return fail("signing key", str(error))
    return ok("signing key", f"{key.key_id} in {path}")


async def address_findings(config: Config, http: aiohttp.ClientSession, *, running: bool) -> list[Finding]:
    """Whether a client finds the server at the public URL and by the server name."""
    findings = []
    url = config.public_url
    if problem := await _no_matrix(http, url + VERSIONS):
        remedy = "look at DNS, the certificate and the reverse proxy" if running else "start the server first"
        findings.append(warn("public_url", f"{url} does not answer from here: {problem}", remedy))
    else:
        findings.append(ok("public_url", f"{url} answers"))
    host = config.server_name
    if urlsplit(url).netloc != host and not host.startswith("localhost"):
        findings.append(await _delegation(http, f"https://{host}/.well-known/matrix/client", url))
    return findings


async def _delegation(http: aiohttp.ClientSession, well_known: str, url: str) -> Finding:
    remedy = f"serve /.well-known/matrix/ of {urlsplit(well_known).netloc} from Weft (docs/admin-guide.md)"
    try:
        async with http.get(well_known) as response:
            told = (await response.json(content_type=None))["m.homeserver"]["base_url"]
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
        text = f"{well_known} does not tell clients where to go: {_said(error)}"
        return warn("server name", text, remedy)
    if str(told).rstrip("/") != url:
        return warn("server name", f"{well_known} sends clients to {told}, and public_url is {url}", remedy)
    return ok("server name", f"{well_known} sends clients to {url}")


async def _no_matrix(http: aiohttp.ClientSession, url: str) -> str:
    """Why no Matrix server answers there; "" when one does."""
    try:
        async with http.get(url) as response:
            if response.status != 200 or "versions" not in await response.json(content_type=None):
                return f"something else does (status {response.status})"
    except (aiohttp.ClientError, TimeoutError, ValueError, TypeError) as error:
        return _said(error)
    return ""


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
