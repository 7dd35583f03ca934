"""What an examination has found."""

from collections.abc import Iterable
from enum import IntEnum

import msgspec


class Level(IntEnum):
    """How bad it is; also the exit code of `weft doctor` whose worst finding this is."""

    OK = 0
    WARN = 1
    FAIL = 2


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: what is the matter, and what to do about it."""

    level: Level
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        mended = f" → {self.remedy}" if self.remedy else ""
        return f"{self.level.name:4} {self.subject}: {self.text}{mended}"


def ok(subject: str, text: str) -> Finding:
    return Finding(Level.OK, subject, text)


def warn(subject: str, text: str, remedy: str = "") -> Finding:
    return Finding(Level.WARN, subject, text, remedy)


def fail(subject: str, text: str, remedy: str = "") -> Finding:
    return Finding(Level.FAIL, subject, text, remedy)


def worst(findings: Iterable[Finding]) -> Level:
    return max((finding.level for finding in findings), default=Level.OK)
