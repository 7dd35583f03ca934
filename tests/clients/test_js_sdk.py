"""People using matrix-js-sdk with its Rust crypto: each script in `js/` is one story, told in steps.

A script prints one JSON line per step. To run one by hand: `node tests/clients/js/rooms.mjs http://127.0.0.1:8008`
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Register

JS = Path(__file__).parent / "js"
OLDEST_NODE = 20
INSTALL_SECONDS = 180
STORY_SECONDS = 120

STORIES = ["accounts", "calls", "encrypted_room", "key_backup", "sliding_sync", "rooms"]


def installed() -> bool:
    """Whether npm has finished installing what the lock file says."""
    done, lock = JS / "node_modules" / ".package-lock.json", JS / "package-lock.json"
    return done.exists() and done.stat().st_mtime >= lock.stat().st_mtime


@pytest.fixture(scope="session")
def node() -> str:
    """The Node executable, with the libraries installed; fails with what to do where that cannot be had."""
    executable = shutil.which("node")
    if executable is None:
        pytest.fail(f"these tests need Node {OLDEST_NODE} or newer; there is no `node` on the PATH")
    version = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.fail(f"these tests need Node {OLDEST_NODE} or newer; this is {version}")
    if not installed():
        command = ["npm", "ci", "--prefix", str(JS), "--no-audit", "--no-fund"]
        npm = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        if npm.returncode:
            pytest.fail(f"`npm ci --prefix tests/clients/js` failed:\n{npm.stderr[-4000:]}")
    return executable


def told(output: str) -> str:
    """The steps of a story in words; of a failed one also what the devices asked of the server."""
    lines: list[str] = []
    for line in output.splitlines():
        entry = json.loads(line)
        if "step" not in entry:
            continue
        lines.append(f"{'ok  ' if entry['ok'] else 'FAIL'} {entry['step']}")
        if not entry["ok"]:
            lines.append(entry["error"])
            lines += [f"  {json.dumps(request)}" for request in entry["requests"]]
    return "\n".join(lines)


def finished(output: str) -> bool:
    """Whether the story was told to its end."""
    last = output.strip().rpartition("\n")[2]
    return bool(last) and json.loads(last).get("done") is True


@pytest.mark.parametrize("story", STORIES)
def test_story(story: str, node: str, homeserver_url: str) -> None:
    command = [node, str(JS / f"{story}.mjs"), homeserver_url]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=STORY_SECONDS, check=False)
    except subprocess.TimeoutExpired as expired:
        so_far = expired.stdout.decode() if isinstance(expired.stdout, bytes) else expired.stdout or ""
        pytest.fail(f"{story} did not end in {STORY_SECONDS} s:\n{told(so_far)}")
    assert run.returncode == 0, f"{told(run.stdout)}\n{run.stderr[-2000:]}"
    assert finished(run.stdout), f"{story} stopped early:\n{told(run.stdout)}"


async def test_people_on_different_clients_read_each_other(
    node: str, homeserver_url: str, register: Register
) -> None:
    alice = await register("alice")
    carol = await asyncio.create_subprocess_exec(
        node, str(JS / "echo.mjs"), homeserver_url, stdout=asyncio.subprocess.PIPE
    )
    assert carol.stdout is not None
    try:
        carol_id = json.loads(await asyncio.wait_for(carol.stdout.readline(), STORY_SECONDS))["user_id"]
        room_id = await alice.create_encrypted_room(invite=[carol_id])
        await alice.sees_member(room_id, carol_id)
        for text in ("hello from the other library", "goodbye"):
            await alice.say(room_id, text)
            answer = await alice.sees_text(room_id, f"echo: {text}")
            assert answer.decrypted
            assert answer.sender == carol_id
        output = (await asyncio.wait_for(carol.stdout.read(), STORY_SECONDS)).decode()
        assert finished(output), told(output)
    finally:
        if carol.returncode is None:
            carol.kill()
        await carol.wait()
