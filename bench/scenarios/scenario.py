"""The shape of a scenario: prepared once for each server, measured in every round."""

from typing import ClassVar

from bench.crowd import Crowds
from bench.load import Load


class Scenario:
    """One kind of load on one server. Rows, figures and mistakes go to `load`."""

    name: ClassVar[str]
    about: ClassVar[str]
    once: ClassVar[bool] = False  # too dear, or meaningless, to repeat
    needs_restart: ClassVar[bool] = False
    only_full: ClassVar[bool] = False
    replicas: ClassVar[int] = 0  # so many replicas on MongoDB and Kafka are needed; 0: any server will do
    pair: ClassVar[bool] = False  # two servers that talk to each other are needed

    def __init__(self, load: Load, crowds: Crowds) -> None:
        self.load = load
        self.sizes = load.sizes
        self.crowds = crowds

    async def prepare(self) -> None:
        """Makes the accounts and rooms. May raise WrongAnswer, which ends the scenario."""

    async def measure(self) -> None:
        """One round."""
        raise NotImplementedError
