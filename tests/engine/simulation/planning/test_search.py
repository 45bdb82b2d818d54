"""The search for the largest load: by arithmetic where the times of steps are round, and by neighbors elsewhere."""

import dataclasses

import pytest

from engine.config import EngineConfig
from engine.errors import OptionError
from engine.simulation.costs import MeasuredTimes
from engine.simulation.hardware import SimulatedModel
from engine.simulation.planning.search import LoadKind, LoadSearch, Requests, Servers
from engine.simulation.planning.slo import parse_slo
from tests.engine.simulation.test_fleet import MODEL

pytestmark = pytest.mark.fast

ROW_S = 0.01
EVEN = dataclasses.replace(MODEL, measured=MeasuredTimes(((1, ROW_S), (2, 2 * ROW_S)), ((1, 0.0),), 0.0, 0.0))


def search(
    kind: LoadKind, slo: str, *, model: SimulatedModel = EVEN, replicas: int = 1, requests: Requests | None = None
) -> LoadSearch:
    engine = EngineConfig(max_num_seqs=8, max_num_batched_tokens=64)
    requests = requests or Requests("8", "4", 40, 0)
    return LoadSearch(Servers(model, engine, replicas), requests, kind, parse_slo(slo))


def test_a_request_alone_takes_its_rows_and_nothing_else() -> None:
    alone = search(LoadKind.CONCURRENCY, "ttft=1s").alone.result
    assert alone.ttft_s is not None
    assert alone.token_s is not None
    assert (alone.ttft_s.p50, alone.token_s.p95) == pytest.approx((8 * ROW_S, ROW_S))


def test_users_have_one_open_request_each() -> None:
    found = search(LoadKind.CONCURRENCY, "request=10s").trial(3).result
    assert found.request_s is not None
    in_flight = found.answered / found.duration_s * found.request_s.mean  # Little's law
    assert found.answered == 3 + 40
    assert in_flight == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("kind", list(LoadKind))
@pytest.mark.parametrize("near", [None, 0.01, 1, 50])
def test_the_largest_load_keeps_the_limit_and_the_next_one_misses_it(kind: LoadKind, near: float | None) -> None:
    found = search(kind, "request=400ms")
    largest = found.largest(near)
    assert largest.trial is not None
    assert largest.trial.misses == []
    following = largest.trial.amount + 1 if kind is LoadKind.CONCURRENCY else largest.trial.amount * 1.03
    assert found.trial(following).misses
    assert "time of a whole request is" in largest.reason


def test_a_limit_that_a_request_alone_misses_has_no_load() -> None:
    largest = search(LoadKind.RATE, "ttft=79ms").largest()
    assert largest.trial is None
    assert largest.reason == ("even a request alone misses it: time to the first token is 80 ms (p95), above 79 ms")


def test_a_loose_limit_ends_at_what_the_servers_compute() -> None:
    largest = search(LoadKind.RATE, "request=1000s").largest()
    assert largest.trial is not None
    assert largest.trial.amount == pytest.approx(1 / (11 * ROW_S), rel=0.02)  # a row for each token but the last
    assert "no more requests a second" in largest.reason


@pytest.mark.parametrize("rate", [1.1, 1e9])
def test_more_requests_than_the_servers_compute_miss_even_a_loose_limit(
    rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short simulation would answer all of them in time, and one of 1e9 requests a second would not end."""
    found = search(LoadKind.RATE, "request=1000s", requests=Requests("8", "4", 20, 0))
    most = found.largest().trial
    assert most is not None
    monkeypatch.setattr(Requests, "draw", None)
    trial = found.trial(most.amount * rate)
    assert trial.is_excessive
    assert trial.misses == ["the servers compute 9.09 requests a second, and the queue of more grows without end"]
    assert not found.trial(most.amount).misses


def test_the_capacity_of_many_servers_has_no_bound_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.simulation.planning.search._MOST_USERS", 4)
    one, four = (search(LoadKind.RATE, "request=1000s", replicas=each).largest().trial for each in (1, 4))
    assert one is not None
    assert four is not None
    assert four.amount == pytest.approx(4 * one.amount, rel=0.1)


@pytest.mark.parametrize(("most", "is_refused"), [(16, False), (15, True)])
def test_a_rate_is_not_planned_for_more_places_than_can_be_played(
    most: int, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.simulation.planning.search._MOST_PLACES", most)
    found = search(LoadKind.RATE, "request=1000s", replicas=2)
    if not is_refused:
        assert found.largest().trial is not None
        return
    with pytest.raises(OptionError, match=r"--max-num-seqs is 8 on each of 2 servers; .* at most 15 requests at once"):
        found.largest()
    assert search(LoadKind.CONCURRENCY, "tpot=40ms", replicas=2).largest().trial is not None  # has no such limit


def test_the_most_rate_does_not_depend_on_how_many_requests_are_played() -> None:
    """Many places and few requests: a single burst would be computed in one round, with most places empty after it."""
    cheap = dataclasses.replace(EVEN, measured=MeasuredTimes(((1, ROW_S), (64, ROW_S)), ((1, 0.0),), 0.0, 0.0))
    amounts = []
    for num_requests in (20, 400):
        found = search(
            LoadKind.RATE, "request=1000s", model=cheap, requests=Requests("8", "4", num_requests, 0)
        ).largest()
        assert found.trial is not None
        amounts.append(found.trial.amount)
    assert amounts[0] == pytest.approx(amounts[1], rel=0.1)


def test_a_loose_limit_ends_at_the_most_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.simulation.planning.search._MOST_USERS", 5)
    largest = search(LoadKind.CONCURRENCY, "request=1000s").largest()
    assert largest.trial is not None
    assert (largest.trial.amount, largest.reason) == (5, "more than 5 users are not simulated")


def test_two_servers_take_twice_as_many_users() -> None:
    amounts = []
    for replicas in (1, 2):
        largest = search(LoadKind.CONCURRENCY, "tpot=40ms", replicas=replicas).largest()
        assert largest.trial is not None
        amounts.append(largest.trial.amount)
    assert amounts[1] >= 2 * amounts[0]


def test_a_request_that_never_fits_is_an_error() -> None:
    with pytest.raises(OptionError, match=r"a request of this load is refused: .*1,024"):
        search(LoadKind.RATE, "ttft=1s", requests=Requests("1020", "10", 20, 0))


def test_the_capacity_is_measured_only_for_a_rate_that_comes_near_to_it() -> None:
    found = search(LoadKind.RATE, "request=1000s")
    assert found.trial(1.0).misses == []
    assert "_capacity" not in vars(found)
    assert found.trial(1000.0).is_excessive
    assert "_capacity" in vars(found)
