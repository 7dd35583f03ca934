"""Token buckets: what they let through, when, and how much memory they take."""

import random

import pytest

from homeserver.config.options import Rate
from homeserver.config.options import RateLimits as Options
from homeserver.errors import MatrixError
from homeserver.rate_limits import MAX_YOUNG, Limit, RateLimits


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def allowed(limit: Limit, key: str = "k", tries: int = 100, cost: int = 1) -> int:
    count = 0
    for _ in range(tries):
        try:
            limit.charge(key, cost)
        except MatrixError:
            break
        count += 1
    return count


def test_burst_passes_at_once_and_then_the_long_run_rate(time: Time) -> None:
    limit = Limit(Rate(2.0, 5), time)
    assert allowed(limit) == 5
    time.now += 0.49
    assert allowed(limit) == 0
    time.now += 0.02
    assert allowed(limit) == 1
    time.now += 100
    assert allowed(limit) == 5


def test_refused_charges_are_told_when_to_come_back(time: Time) -> None:
    limit = Limit(Rate(0.5, 1), time)
    limit.charge("k")
    with pytest.raises(MatrixError) as refused:
        limit.charge("k")
    error = refused.value
    assert (error.status, error.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert 1990 <= error.extra["retry_after_ms"] <= 2001
    time.now += error.extra["retry_after_ms"] / 1000
    limit.charge("k")


def test_refused_charges_cost_nothing(time: Time) -> None:
    limit = Limit(Rate(1.0, 1), time)
    limit.charge("k")
    for _ in range(1000):
        assert allowed(limit) == 0
    time.now += 1
    assert allowed(limit) == 1
    assert limit.refused == 1001


def test_keys_have_buckets_of_their_own(time: Time) -> None:
    limit = Limit(Rate(1.0, 3), time)
    assert allowed(limit, "a") == 3
    assert allowed(limit, "b") == 3


def test_dear_charge_takes_more_and_at_most_a_whole_burst(time: Time) -> None:
    limit = Limit(Rate(1.0, 10), time)
    limit.charge("k", 4)
    assert allowed(limit) == 6
    time.now += 10
    limit.charge("k", 1000)
    assert allowed(limit) == 0
    time.now += 10
    limit.charge("k", 1000)


def test_refunded_charge_did_not_happen(time: Time) -> None:
    limit = Limit(Rate(1.0, 2), time)
    for _ in range(50):
        limit.charge("k")
        limit.refund("k")
    assert allowed(limit) == 2
    limit.refund("unknown")


def test_rounding_refuses_nobody(time: Time) -> None:
    seeded = random.Random(7)
    for _ in range(200):
        rate = Rate(seeded.uniform(0.001, 50), seeded.randint(1, 100))
        time.now = seeded.uniform(0, 1e9)
        assert allowed(Limit(rate, time), tries=200) == rate.burst


def test_long_run_rate_holds_whatever_the_pattern(time: Time) -> None:
    seeded = random.Random(11)
    limit = Limit(Rate(3.0, 7), time)
    start, passed = time.now, 0
    for _ in range(5000):
        time.now += seeded.expovariate(10)
        passed += allowed(limit, tries=1)
        assert passed <= 7 + 3.0 * (time.now - start) + 1e-6
    assert passed > 2.9 * (time.now - start)


def test_memory_is_bounded_however_many_keys_come(time: Time) -> None:
    limit = Limit(Rate(0.001, 1), time)
    for number in range(5 * MAX_YOUNG):
        limit.charge(f"key{number}")
    assert len(limit._full_at) + len(limit._old) <= 2 * MAX_YOUNG + 1


def test_bucket_in_use_is_not_forgotten_in_a_flood_of_others(time: Time) -> None:
    limit = Limit(Rate(0.0001, 1), time)
    limit.charge("victim")
    for number in range(4 * MAX_YOUNG):
        limit.charge(f"key{number}")
        if number % 1000 == 0:
            assert allowed(limit, "victim", 1) == 0


def test_limits_are_those_of_the_configuration(time: Time) -> None:
    limits = RateLimits(Options(join=Rate(1.0, 2)), time)
    limits.charge("join", "k")
    limits.charge("join", "k")
    with pytest.raises(MatrixError):
        limits.charge("join", "k")
    limits.charge("invite", "k")
    with pytest.raises(KeyError):
        limits["joins"]


def test_no_limit_holds_when_they_are_switched_off(time: Time) -> None:
    limits = RateLimits(Options(enabled=False, join=Rate(1.0, 1)), time)
    assert limits["join"] is None
    for _ in range(100):
        limits.charge("join", "k")
    limits.refund("join", "k")
    with pytest.raises(KeyError):
        limits["joins"]


def test_other_replicas_are_told_of_what_is_worth_telling(time: Time) -> None:
    limit = Limit(Rate(1.0, 40), time)
    limit.untold = {}
    for key, times in (("busy", 4), ("idle", 3), ("calm", 0)):
        for _ in range(times):
            limit.charge(key)
    assert limit.take_untold() == {"busy": 4}
    assert limit.take_untold() == {}
    limit.charge("idle")
    assert limit.take_untold() == {"idle": 4}
    limit.charge("calm")
    time.now += 60
    limit.take_untold()
    assert limit.untold == {}


def test_what_others_charged_is_paid_here(time: Time) -> None:
    limit = Limit(Rate(1.0, 5), time)
    limit.add("k", 3)
    assert allowed(limit) == 2
    limit.add("k", 5)
    time.now += 5
    assert allowed(limit) == 0
    time.now += 5
    assert allowed(limit) == 5
    limit.add("k", -2)
    assert allowed(limit) == 2
