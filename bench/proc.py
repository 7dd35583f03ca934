"""What a server uses, read from the kernel: CPU time and memory of its processes and their children."""

import asyncio
import os
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_QUIET_SLICE = 0.05
_QUIET_SHARE = 0.06
_QUIET_LIMIT = 2.0


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on: [1] is the parent, [13] and [14] the CPU of ended children."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def with_children(roots: Iterable[int]) -> set[int]:
    """The given processes that live, with all their descendants."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                parents[int(entry)] = int(_stat(int(entry))[1])
    family = {pid for pid in roots if pid in parents}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family |= more
        grown = bool(more)
    return family


def cpu_seconds(pids: Collection[int]) -> float:
    """User and system time so far, ended children included.

    Each process is asked for its CPU clock, which counts nanoseconds; the sums in /proc/PID/stat are
    the same figure in steps of 10 ms, too coarse for operations of 0.1 ms.
    """
    total = 0.0
    for pid in pids:
        with suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3), which Python lacks
            fields = _stat(pid)
            total += (int(fields[13]) + int(fields[14])) / _TICK
    return total


def pin(roots: Iterable[int], cores: Collection[int]) -> None:
    """Keeps processes that run already, with all their threads and children, on these cores."""
    for pid in with_children(roots):
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), cores)


def rss_bytes(pids: Collection[int]) -> int:
    """Resident memory, summed over the processes."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


async def quiet(pids: Collection[int], limit: float = _QUIET_LIMIT) -> None:
    """Waits until the processes do next to nothing, so that late work is charged to what caused it."""
    stop = time.perf_counter() + limit
    before = cpu_seconds(pids)
    while time.perf_counter() < stop:
        await asyncio.sleep(_QUIET_SLICE)
        now = cpu_seconds(pids)
        if now - before < _QUIET_SLICE * _QUIET_SHARE:
            return
        before = now
