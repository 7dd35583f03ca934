"""The driver process: loads one server as the conductor tells it, for the whole run.

It keeps the accounts and rooms that its scenarios made, so that the rounds measure and do not set up
again. Standard input brings one JSON message per line, standard output takes the answers.
"""

import asyncio
import sys

import msgspec
import uvloop

from bench.crowd import Crowds
from bench.load import Load
from bench.matrix import WrongAnswer
from bench.results import Attach, FromDriver, Outcome, Restart, Restarted, Run, ToDriver
from bench.scenarios import SCENARIOS, Scenario

_ENCODER = msgspec.json.Encoder()


def _write(message: FromDriver) -> None:
    sys.stdout.buffer.write(_ENCODER.encode(message) + b"\n")
    sys.stdout.buffer.flush()


async def _commands() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def _drive() -> None:
    commands = await _commands()
    attach = msgspec.json.decode(await commands.readline(), type=Attach)
    decoder = msgspec.json.Decoder(ToDriver)

    async def restart() -> Restarted:
        _write(Restart())
        answer = decoder.decode(await commands.readline())
        assert isinstance(answer, Restarted)
        return answer

    load = Load(attach, restart if attach.can_restart else None)
    crowds = Crowds()
    prepared: dict[str, Scenario] = {}
    while line := await commands.readline():
        command = decoder.decode(line)
        assert isinstance(command, Run)
        load.outcome = Outcome()
        try:
            if command.scenario not in prepared:
                scenario = SCENARIOS[command.scenario](load, crowds)
                await scenario.prepare()
                prepared[command.scenario] = scenario
            await prepared[command.scenario].measure()
        except (WrongAnswer, OSError) as error:
            load.mistake(f"given up: {error}")
        load.hang_up()
        _write(load.outcome)


if __name__ == "__main__":
    uvloop.run(_drive())
