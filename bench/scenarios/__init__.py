"""The scenarios, in the order in which they run: those that restart the server come
last, but for those on several replicas."""

from bench.scenarios.devices import Accounts, Encryption
from bench.scenarios.fanout import Fanout, Polls
from bench.scenarios.federation import FederatedJoin, Federation
from bench.scenarios.graphs import Graphs
from bench.scenarios.growth import Growth
from bench.scenarios.history import Rooms
from bench.scenarios.length import Length
from bench.scenarios.replicas import Across, CatchUp, Ceiling, Contention, Costs, Scaling
from bench.scenarios.scenario import Scenario
from bench.scenarios.send import Send
from bench.scenarios.storage import Memory, Storage
from bench.scenarios.sync import FirstSync, IncrementalSync

__all__ = ["SCENARIOS", "Scenario"]

SCENARIOS: dict[str, type[Scenario]] = {
    scenario.name: scenario
    for scenario in (
        Send,
        Fanout,
        IncrementalSync,
        FirstSync,
        Rooms,
        Encryption,
        Accounts,
        Growth,
        Length,
        Polls,
        Storage,
        Memory,
        Ceiling,
        Across,
        Costs,
        Contention,
        Scaling,
        CatchUp,
        Federation,
        Graphs,
        FederatedJoin,
    )
}
