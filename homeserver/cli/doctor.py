"""`weft doctor`: says what is wrong, and how to mend it (`homeserver.doctor`)."""

import argparse
import asyncio
import json

from homeserver import logs
from homeserver.cli.command import Commands, configured, loaded
from homeserver.config import ConfigError
from homeserver.doctor.findings import Finding, fail, worst


def add(commands: Commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        parents=[configured()],
        help="look for what is wrong, and say how to mend it",
        description="Look at configuration, files, addresses, store, bus and replicas, whether the server "
        "runs or not. Ends with 0 if all is well, 1 after warnings, 2 if something is wrong.",
    )
    doctor.add_argument("--json", action="store_true", help="print a list of findings for machines")
    doctor.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        config = loaded(arguments)
    except ConfigError as error:
        findings = [fail("configuration", str(problem)) for problem in error.problems]
    else:
        from homeserver.app.serving import examined

        logs.configure("error", config.log.format)
        findings = asyncio.run(examined(config))
    if arguments.json:
        print(json.dumps([_plain(finding) for finding in findings], indent=2))
    else:
        print(*findings, sep="\n")
    return worst(findings)


def _plain(finding: Finding) -> dict[str, str]:
    return {
        "level": finding.level.name,
        "subject": finding.subject,
        "text": finding.text,
        "remedy": finding.remedy,
    }
