"""The simulation behind docs/scaling.md agrees with arithmetic wherever that can tell."""

import pytest

from bench.scaling_model import Costs, Installation, Measured, Simulation, capacity

COSTS = Costs(
    send=0.0005,
    commit=0.0001,
    passed_on=0.0003,
    follow=0.00005,
    deliver=0.0001,
    database_batch=0.0002,
    database_entry=0.00004,
    journal=0.001,
)
ONE = Installation(replicas=1, room_shards=8, databases=1, readers=2)
EIGHT = Installation(replicas=8, room_shards=64, databases=2, readers=2)


def test_a_lonely_message_takes_the_sum_of_its_parts() -> None:
    outcome = Simulation(COSTS, ONE, seed=1).run(rate=1.0, messages=200)
    assert outcome.send_p50 == pytest.approx(0.0005 + 0.0001 + 0.0002 + 0.00004 + 0.001)
    assert outcome.deliver_p50 == pytest.approx(outcome.send_p50 + 0.0001, abs=0.0001)


def test_a_lonely_message_that_is_passed_on_takes_that_longer() -> None:
    two = ONE._replace(replicas=2)
    outcome = Simulation(COSTS, two, seed=1).run(rate=1.0, messages=400)
    assert outcome.send_p99 - 0.00184 == pytest.approx(0.0003)


@pytest.mark.parametrize("plan", [ONE, EIGHT])
def test_what_an_installation_can_do_is_done_and_no_more(plan: Installation) -> None:
    most = capacity(COSTS, plan, batch=1e9)
    easy = Simulation(COSTS, plan, seed=2).run(rate=0.5 * most, messages=4000)
    assert easy.done == pytest.approx(easy.offered, rel=0.1)
    assert easy.busiest < 1
    hard = Simulation(COSTS, plan, seed=2).run(rate=3 * most, messages=4000)
    assert hard.done <= most * 1.02
    assert hard.send_p99 > 10 * easy.send_p99


def test_the_same_seed_gives_the_same_outcome() -> None:
    def outcome(seed: int) -> object:
        return Simulation(COSTS, EIGHT, seed).run(rate=1000.0, messages=500)

    assert outcome(3) == outcome(3)
    assert outcome(3) != outcome(4)


def test_following_all_shards_bounds_what_any_number_of_replicas_can_do() -> None:
    many = EIGHT._replace(replicas=1000, room_shards=1024, databases=1000)
    assert capacity(COSTS, EIGHT) < capacity(COSTS, many) < 1 / COSTS.follow


def test_one_hot_room_is_one_core() -> None:
    hot = EIGHT._replace(hot=1.0, readers=0)
    assert capacity(COSTS, hot, batch=1e9) <= 1 / COSTS.send
    outcome = Simulation(COSTS, hot, seed=5).run(rate=4000.0, messages=3000)
    assert outcome.done < 1 / COSTS.send
    assert outcome.busiest > 0.9


MEASURED = Measured(
    owner_alone=0.002,
    owner_in_batches=0.001,
    batch=10.0,
    passed_on=0.0006,
    read_along=0.0001,
    nobody_there=0.00005,
    delivered=0.0002,
    database_alone=0.0009,
    database_in_batches=0.0002,
    broker_alone=0.0005,
    broker_in_batches=0.0001,
    single_insert=0.0015,
)


def test_costs_say_again_what_was_measured() -> None:
    costs = MEASURED.costs()
    assert costs.send + costs.commit == pytest.approx(MEASURED.owner_alone)
    assert costs.send + costs.commit / MEASURED.batch == pytest.approx(MEASURED.owner_in_batches)
    assert costs.database_entry + costs.database_batch == pytest.approx(MEASURED.database_alone)
    in_batches = costs.database_entry + costs.database_batch / MEASURED.batch
    assert in_batches == pytest.approx(MEASURED.database_in_batches)
    assert costs.passed_on == pytest.approx(0.0005)
    assert costs.journal == pytest.approx(0.0006)


def test_what_was_measured_is_read_back_from_its_figures() -> None:
    figures = {name: value for name, (_, value) in MEASURED.figures().items()}
    assert Measured.of(figures) == pytest.approx(MEASURED)
    with pytest.raises(KeyError):
        Measured.of({})
