"""Predictions of the first token, against a server in virtual time."""

import random
import sys
from collections.abc import Callable

import pytest

from engine.client.queue.backlog import Backlog
from engine.client.queue.first_token import FirstToken, FirstTokenPredictor, RunningRequest
from engine.protocol import FinishReason, RequestOutput, ServiceClass, StepStats
from tests.helpers.fake_client import engine_info
from tests.helpers.virtual_server import Fate, VirtualServer, Work, poisson

pytestmark = pytest.mark.fast

SECONDS, SETTLED_S = 40.0, 10.0
USUAL, FLEX = ServiceClass.INTERACTIVE, ServiceClass.BACKGROUND


def _equal(_: random.Random, arrival_s: float) -> Work:
    return Work(arrival_s, 200, 64, 64)


def _mixed(source: random.Random, arrival_s: float) -> Work:
    """Nobody says how long an answer will be."""
    return Work(arrival_s, source.randint(16, 600), max(1, int(source.expovariate(1 / 60))), 900)


def _prefill(source: random.Random, arrival_s: float) -> Work:
    return Work(arrival_s, source.randint(300, 1500), 4, 8)


LOADS: list[tuple[Callable[[random.Random, float], Work], float]] = [(_equal, 10.0), (_mixed, 8.0), (_prefill, 3.0)]


@pytest.mark.parametrize("slo_s", [1.0, 4.0])
@pytest.mark.parametrize(("make", "rate"), LOADS)
def test_under_overload_those_that_are_accepted_have_their_first_token_in_time(
    make: Callable[[random.Random, float], Work], rate: float, slo_s: float
) -> None:
    fates = VirtualServer().run(poisson(rate, SECONDS, make), lambda predicted, _: predicted.likely_s <= slo_s)
    accepted = [each for each in fates if each.is_accepted and each.work.arrival_s > SETTLED_S]
    assert len(accepted) > 20
    assert sum(not each.is_accepted for each in fates) > len(fates) / 4, "no overload"
    num_in_time = sum(_waited_s(each) <= slo_s for each in accepted)
    assert num_in_time >= 0.85 * len(accepted)


@pytest.mark.parametrize(("make", "rate"), LOADS)
def test_an_slo_costs_little_of_what_the_server_can_do(
    make: Callable[[random.Random, float], Work], rate: float
) -> None:
    """Refusing by the prediction keeps the places full: nearly as many are served as by a queue of any length."""
    works = poisson(rate, SECONDS, make)
    bounded, unbounded = VirtualServer(), VirtualServer()
    fates = bounded.run(works, lambda predicted, _: predicted.likely_s <= 2.0)
    all_fates = unbounded.run(works, lambda *_: True)
    served = sum(each.is_accepted for each in fates) / bounded.now_s
    assert served >= 0.85 * len(all_fates) / unbounded.now_s


@pytest.mark.parametrize("slo_s", [1.0, 2.0, 4.0])
def test_what_refused_requests_would_have_waited(slo_s: float) -> None:
    """Every twentieth is taken all the same, which changes the load little."""
    num_refused = 0

    def is_accepted(predicted: FirstToken, _: Work) -> bool:
        nonlocal num_refused
        if predicted.likely_s <= slo_s:
            return True
        num_refused += 1
        return num_refused % 20 == 0

    fates = VirtualServer().run(poisson(8.0, 120.0, _mixed), is_accepted)
    settled = [each for each in fates if each.is_accepted and each.work.arrival_s > SETTLED_S]
    taken = sorted(_waited_s(each) for each in settled if each.predicted.likely_s <= slo_s)
    refused = sorted(_waited_s(each) for each in settled if each.predicted.likely_s > slo_s)
    in_time = sum(wait_s <= slo_s for wait_s in taken) / len(taken)
    sys.stdout.write(
        f"limit {slo_s:g} s: {in_time:.0%} of {len(taken)} taken in time, median {taken[len(taken) // 2]:.2f} s; "
        f"{len(refused)} of {num_refused} refused would have waited {refused[len(refused) // 2]:.2f} s (median), "
        f"{sum(wait_s > slo_s for wait_s in refused) / len(refused):.0%} of them beyond the limit\n"
    )
    assert refused[len(refused) // 2] > taken[len(taken) // 2]


@pytest.mark.parametrize(("make", "rate"), LOADS)
def test_expectations_are_right_on_the_whole(make: Callable[[random.Random, float], Work], rate: float) -> None:
    server = VirtualServer()
    server.run(poisson(rate, SECONDS, make), lambda predicted, _: predicted.expected_s <= 4.0)
    ratios = sorted(real_s / expected_s for expected_s, real_s in server.known if expected_s > 0.5)
    assert len(ratios) > 30
    assert 0.6 < ratios[len(ratios) // 2] < 1.4


def test_an_idle_server_is_predicted_to_take_the_time_of_the_prompt() -> None:
    works = [Work(10.0 * number, 1000, 5, 5) for number in range(20)]
    fates = VirtualServer(noise=0.0).run(works, lambda *_: True)
    assert fates[-1].predicted.expected_s == pytest.approx(_waited_s(fates[-1]), rel=0.2)
    assert fates[-1].predicted.own_s == pytest.approx(fates[-1].predicted.expected_s)


def test_flexible_requests_do_not_delay_the_others() -> None:
    flexible = [Work(0.01 * number, 200, 64, 64, FLEX) for number in range(200)]
    server = VirtualServer()
    fates = server.run([*flexible, Work(30.0, 200, 10, 10), Work(30.0, 200, 10, 10, FLEX)], lambda *_: True)
    usual, flex = fates[-2:]
    assert usual.work.service_class is USUAL
    assert usual.predicted.expected_s < 1.0
    assert _waited_s(usual) < 1.0
    assert flex.predicted.expected_s > 5.0


@pytest.mark.parametrize("num_output", [12, 40, 150])
@pytest.mark.parametrize(("between_s", "num_places"), [(0.002, 8), (0.1, 8), (0.25, 8), (0.25, 2)])
def test_the_first_predictions_of_a_server_are_not_far_too_long(
    num_output: int, between_s: float, num_places: int
) -> None:
    """Nothing is known of answers, and the first steps have much of prompts in them."""
    works = [Work(between_s * number, 200, num_output, 900) for number in range(40)]
    fates = VirtualServer(max_num_seqs=num_places).run(works, lambda *_: True)
    for fate in fates:
        assert fate.predicted.expected_s <= 1.0 + 2.5 * _waited_s(fate)
        assert fate.predicted.likely_s <= 1.5 + 3 * _waited_s(fate)


def test_a_fresh_server_refuses_few_that_would_be_in_time_and_takes_few_that_would_not() -> None:
    works = [Work(0.2 * number, 200, 40, 900) for number in range(60)]
    all_fates = VirtualServer().run(works, lambda *_: True)
    assert sum(each.predicted.likely_s > 3.0 and _waited_s(each) < 2.0 for each in all_fates) <= 3
    fates = VirtualServer().run(works, lambda predicted, _: predicted.likely_s <= 3.0)
    accepted = [each for each in fates if each.is_accepted]
    assert sum(_waited_s(each) > 4.5 for each in accepted) <= 3


def test_nothing_is_predicted_before_there_is_an_engine() -> None:
    assert _predictor()[0].predict(1000, USUAL) == FirstToken(0.0, 0.0, 0.0)


def test_what_became_of_a_prediction_is_told_once_and_of_requests_with_a_token_alone() -> None:
    predictor, known = _predictor()
    predictor.on_ready(engine_info(prefill_seconds_per_token=0.01))
    for name in ("a", "b", "c"):
        predictor.expect(name, 100, USUAL)
    predictor.on_step(StepStats(), [RequestOutput(id="a", new_ids=[1]), RequestOutput(id="b", num_prompt_computed=9)])
    predictor.on_step(StepStats(), [RequestOutput(id="b", finish_reason=FinishReason.ABORT)])
    predictor.on_step(StepStats(), [RequestOutput(id="a", new_ids=[1], finish_reason=FinishReason.LENGTH)])
    assert [(prediction.expected_s, real_s) for prediction, real_s in known] == [(pytest.approx(1.0, rel=0.2), 1.0)]
    predictor.on_ready(engine_info())  # another engine
    predictor.on_step(StepStats(), [RequestOutput(id="c", new_ids=[1])])
    assert len(known) == 1


def _predictor() -> tuple[FirstTokenPredictor, list[tuple[FirstToken, float]]]:
    known: list[tuple[FirstToken, float]] = []
    times = iter(range(100))
    predictor = FirstTokenPredictor(
        Backlog(),
        list[RunningRequest],
        on_known=lambda *each: known.append(each),
        clock=lambda: float(next(times)) // 4,
    )
    return predictor, known


def _waited_s(fate: Fate) -> float:
    assert fate.first_token_s is not None
    return fate.first_token_s
