"""Plans: the figures of a load, what changes bring, and drafts."""

import dataclasses

import msgspec
import pytest

from engine.config import EngineConfig
from engine.simulation.costs import MeasuredTimes
from engine.simulation.planning.drafts import plan_drafts
from engine.simulation.planning.plan import Plan, Variant, make_plan
from engine.simulation.planning.search import LoadKind, Requests, Servers
from engine.simulation.planning.slo import parse_slo
from tests.engine.simulation.planning.test_search import EVEN

pytestmark = pytest.mark.fast

FASTER = dataclasses.replace(EVEN, measured=MeasuredTimes(((1, 0.005), (2, 0.01)), ((1, 0.0),), 0.0, 0.0))


def plan(kind: LoadKind = LoadKind.CONCURRENCY, amount: float = 2, slo: str = "request=400ms", **options: str) -> Plan:
    requests = Requests(options.get("input", "8"), "4", 20, 0)
    servers = Servers(EVEN, EngineConfig(max_num_seqs=8, max_num_batched_tokens=64), 1)
    variants = [Variant("faster", FASTER), Variant("none", None, "it cannot be")]
    return make_plan(servers, requests, kind, amount, parse_slo(slo), variants)


def test_changes_are_compared_with_the_largest_load() -> None:
    made = plan()
    assert made.largest is not None
    changes = {each.name: each for each in made.changes}
    assert list(changes) == ["2 servers", "prompts of 16 tokens", "faster", "none"]
    for name, grows in (("2 servers", True), ("prompts of 16 tokens", False), ("faster", True)):
        largest, ratio = changes[name].largest, changes[name].ratio
        assert largest is not None
        assert ratio == largest.amount / made.largest.amount
        assert (ratio > 1) is grows, name
    assert (changes["none"].given, changes["none"].failure) == (None, "it cannot be")


def test_a_change_whose_requests_do_not_fit_says_so() -> None:
    longer = plan(input="600", slo="request=10s").changes[1]
    assert longer.name == "prompts of 1200 tokens"
    assert longer.failure is not None
    assert "refused" in longer.failure


def test_one_more_user_fits_below_the_largest_load_alone() -> None:
    most = plan(amount=1).largest
    assert most is not None
    assert plan(amount=most.amount - 1).one_more_fits
    assert not plan(amount=most.amount).one_more_fits


def test_a_load_beyond_the_limits_names_the_servers_that_it_needs() -> None:
    made = plan(LoadKind.RATE, 30)
    assert made.given.misses
    assert made.largest is not None
    assert made.replicas_needed == -(-30 // made.largest.amount)


def test_a_rate_above_what_the_servers_compute_has_no_times() -> None:
    made = plan(LoadKind.RATE, 1e9, slo="request=1000s")
    assert "grows without end" in made.given.misses[0]
    assert (made.given.ttft_s, made.given.token_s, made.given.request_s) == (None, None, None)
    assert made.given.requests_per_s < 10
    assert made.largest is not None
    assert not made.largest.misses
    assert made.drafts.num_sequences == pytest.approx(8, abs=1)  # as many as there are places


def test_a_limit_that_nothing_keeps_has_no_largest_load() -> None:
    made = plan(slo="ttft=1ms")
    assert (made.largest, made.replicas_needed, made.one_more_fits) == (None, None, False)
    assert "even a request alone" in made.limit


def test_a_plan_is_the_same_after_json() -> None:
    made = plan()
    assert msgspec.json.decode(msgspec.json.encode(made), type=Plan) == made


@pytest.mark.parametrize(
    ("rows_s", "tokens", "acceptance"),
    [
        (((1, 1.0), (5, 1.0)), 1.0, 0.0),  # further rows cost nothing
        (((1, 1.0), (5, 1.9375)), 1.9375, 0.5),  # 1 + 1/2 + 1/4 + 1/8 + 1/16
        (((1, 1.0), (5, 5.0)), 5.0, 1.0),
        (((1, 1.0), (5, 6.0)), 6.0, None),
    ],
)
def test_drafts_pay_above_the_cost_of_their_steps(
    rows_s: tuple[tuple[int, float], ...], tokens: float, acceptance: float | None
) -> None:
    model = dataclasses.replace(EVEN, measured=MeasuredTimes(rows_s, ((1, 0.0),), 0.0, 0.0))
    drafts = plan_drafts(model, 100, 1)
    assert drafts.break_even_tokens == tokens
    assert drafts.break_even_acceptance == (acceptance if acceptance is None else pytest.approx(acceptance, abs=1e-6))
