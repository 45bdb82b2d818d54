"""Tenants: each gets its share of tokens and of places, whatever the others send, and no credit for idle times."""

from collections import abc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import AbortReason, EngineRequest, ServiceClass
from engine.scheduling.fairness import shares
from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.fairness.tenants import Tenants
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.split import Demand
from tests.helpers.engines import SchedulerRun, expected_ids, make_config, make_prompt, make_request

pytestmark = pytest.mark.fast


def request(tenant: str, number: int, length: int = 10, **fields: Any) -> EngineRequest:
    prompt = make_prompt(length, seed=1000 * sum(tenant.encode()) + number)
    return make_request(f"{tenant}{number}", prompt, ignore_eos=True, tenant=tenant, **fields)


def accounts(run: SchedulerRun) -> dict[str, TenantAccount]:
    return {each.request.tenant: each.account for each in run.scheduler._lifecycle.sequences.values()}


def num_running(run: SchedulerRun) -> dict[str, int]:
    return {tenant: account.num_running for tenant, account in accounts(run).items()}


def num_fair_preemptions(run: SchedulerRun) -> int:
    return sum(stats.preemptions_by_reason.get("fairness", 0) for stats in run.stats)


def flood(run: SchedulerRun, tenant: str, num_requests: int = 200, **fields: Any) -> None:
    for number in range(num_requests):
        run.add(request(tenant, number, **fields))


def served(run: SchedulerRun) -> dict[str, float]:
    return {tenant: account.counter * account.weight for tenant, account in accounts(run).items()}


# --- shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [1.0, 3.0])
@pytest.mark.parametrize("num_blocks", [1000, 60])
def test_two_that_flood_are_served_by_weight(weight: float, num_blocks: int) -> None:
    """With few places, and with few blocks."""
    run = SchedulerRun(make_config(num_blocks=num_blocks, max_num_seqs=16, max_num_batched_tokens=64))
    flood(run, "a", max_tokens=30, tenant_weight=weight)
    flood(run, "b", max_tokens=30)
    for _ in range(300):
        run.step()
    assert set(num_running(run)) == {"a", "b"}
    assert served(run)["a"] / served(run)["b"] == pytest.approx(weight, rel=0.1)


def test_long_outputs_count_as_much_as_long_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places alone would give the one with long prompts far more."""
    monkeypatch.setattr(shares, "_SLACK", 64)
    run = SchedulerRun(make_config(num_blocks=1000, max_num_seqs=8, max_num_batched_tokens=64))
    flood(run, "a", length=4, max_tokens=60)
    flood(run, "b", length=40, max_tokens=2)
    for _ in range(300):
        run.step()
    assert served(run)["a"] / served(run)["b"] == pytest.approx(1, rel=0.1)


def test_one_that_comes_later_gets_its_places_at_once() -> None:
    run = SchedulerRun(make_config(num_blocks=1000, max_num_seqs=16))
    flood(run, "a", max_tokens=50)
    for _ in range(5):
        run.step()
    assert num_running(run) == {"a": 16}
    run.add(request("b", 0))
    run.step()
    assert num_running(run) == {"a": 15, "b": 1}
    for number in range(1, 30):
        run.add(request("b", number, max_tokens=50))
    for _ in range(10):
        run.step()
    assert num_running(run) == {"a": 8, "b": 8}
    assert num_fair_preemptions(run) <= 9


def test_a_third_gets_its_places_though_others_wait_before_it() -> None:
    run = SchedulerRun(make_config(num_blocks=1000, max_num_seqs=12))
    for tenant in "ab":
        flood(run, tenant, 40, max_tokens=50)
    for _ in range(10):
        run.step()
    assert num_running(run) == {"a": 6, "b": 6}
    flood(run, "c", 40, max_tokens=50)
    for _ in range(10):
        run.step()
    assert num_running(run) == {"a": 4, "b": 4, "c": 4}


def test_places_follow_weights() -> None:
    run = SchedulerRun(make_config(num_blocks=1000, max_num_seqs=16))
    flood(run, "a", max_tokens=50)
    run.step()
    flood(run, "b", max_tokens=50, tenant_weight=3.0)
    for _ in range(20):
        run.step()
    assert num_running(run) == {"a": 4, "b": 12}


def test_blocks_are_shared_as_slots_are() -> None:
    """The larger part counts: few sequences with all the blocks are more than a share too."""
    run = SchedulerRun(make_config(num_blocks=32, max_num_seqs=64, max_num_batched_tokens=200))
    for number in range(8):
        run.add(request("a", number, 28, max_tokens=4))  # 7 blocks each
    run.step()
    assert num_running(run) == {"a": 4}
    run.add(request("b", 0, 28, max_tokens=4))
    run.step()
    assert num_running(run) == {"a": 3, "b": 1}
    run.finish()


def test_memory_is_taken_from_whom_has_most() -> None:
    """The flooder came first, and its growth does not preempt the other."""
    run = SchedulerRun(make_config(num_blocks=20, max_num_seqs=64))
    for number in range(4):
        run.add(request("a", number, 12, max_tokens=40))
    run.add(request("b", 0, 12, max_tokens=20))
    run.step()
    while "b0" not in run.transcript.finish_reasons:
        assert num_running(run)["b"] == 1
        run.step()
    assert sum(stats.preemptions_by_reason.get("memory", 0) for stats in run.stats) > 0
    run.finish()


def test_a_flooders_long_prompts_leave_tokens_to_another_tenant() -> None:
    run = SchedulerRun(make_config(num_blocks=1000, max_num_batched_tokens=32))
    flood(run, "a", 8, length=300, max_tokens=2)
    for _ in range(2):
        run.step()
    run.add(request("b", 0, 14))
    run.step()
    assert run.transcript.ids["b0"]


def test_tokens_far_into_a_prompt_count_by_what_they_cost() -> None:
    tenants = Tenants()
    far, near = (Sequence(request=request(name, 0), seed=0, tokens=[1] * 10, num_prompt=10) for name in "ab")
    for each in (far, near):
        each.account = tenants.account(each)
    plan = StepPlan([PlanItem(far, 0, 1, 0, needs_logits=False), PlanItem(near, 0, 5, 0, needs_logits=False)])
    tenants.count_step(plan, [Demand(far, 1, 10, cost=2.0, context_cost=3.0), Demand(near, 5, 10)])
    assert (far.account.prompt_level, near.account.prompt_level) == (5.0, 5.0)


def test_the_only_place_is_not_taken_back_and_forth() -> None:
    run = SchedulerRun(make_config(max_num_seqs=1))
    flood(run, "a", 3)
    run.step()
    flood(run, "b", 3)
    run.finish()
    assert sum(stats.preemptions for stats in run.stats) == 0
    assert [id[0] for id in run.transcript.finish_reasons] == list("abab") + list(run_tail(run))


def run_tail(run: SchedulerRun) -> abc.Iterator[str]:
    return (id[0] for id in list(run.transcript.finish_reasons)[4:])


# --- counters --------------------------------------------------------------------------------------------------------


def test_an_idle_tenant_hoards_no_credit() -> None:
    run = SchedulerRun(make_config(num_blocks=1000, max_num_seqs=4))
    flood(run, "b", 1, max_tokens=2)
    flood(run, "a", 60, max_tokens=20)
    for _ in range(100):
        run.step()
    before = served(run)["a"]
    for number in range(10, 70):
        run.add(request("b", number, max_tokens=20))
    assert served(run)["b"] == before
    for _ in range(60):
        run.step()
    gained = {tenant: counter - before for tenant, counter in served(run).items()}
    assert gained["b"] / gained["a"] == pytest.approx(1, rel=0.2)


def test_an_aborted_prompt_is_charged_as_far_as_it_was_computed() -> None:
    run = SchedulerRun(make_config(num_blocks=1000, max_num_batched_tokens=16))
    run.add(request("a", 0, 100))
    run.add(request("a", 1, 100))
    for _ in range(3):
        run.step()
    for number in range(2):
        run.scheduler.abort(f"a{number}", AbortReason.CLIENT_GONE)
    (account,) = accounts(run).values()
    run.step()
    assert account.counter == 48


def test_a_refund_gives_no_credit_that_a_lift_took() -> None:
    account = TenantAccount()
    account.charge_prompt(100)
    account.lift(500)
    account.charge_prompt(-90)
    assert account.counter == 500


def test_cached_tokens_are_free() -> None:
    run = SchedulerRun(make_config(num_blocks=1000))
    first = request("a", 0, 41, max_tokens=1)
    run.run([first])
    run.add(make_request("again", first.prompt_ids, tenant="a", max_tokens=3, ignore_eos=True))
    run.step()
    assert accounts(run)["a"].counter == 1 + 2


def test_classes_have_accounts_of_their_own() -> None:
    run = SchedulerRun(make_config(num_blocks=1000, max_num_seqs=2))
    flood(run, "a", 4, service_class=ServiceClass.BACKGROUND)
    run.add(request("b", 0))
    run.add(request("a", 9))
    run.step()
    assert {each.id for each in run.scheduler.running} == {"b0", "a9"}


def test_tenants_are_counted() -> None:
    run = SchedulerRun(make_config(max_num_seqs=2))
    for tenant in "aabbcd":
        run.add(request(tenant, len(run.scheduler._lifecycle.sequences)))
    run.step()
    assert (run.stats[-1].tenants_running, run.stats[-1].tenants_waiting) == (2, 4)
    run.finish()
    assert (run.stats[-1].tenants_running, run.stats[-1].tenants_waiting) == (0, 0)
    assert not run.scheduler._lifecycle.tenants._accounts


# --- properties ------------------------------------------------------------------------------------------------------

Row = tuple[int, int]  # lengths of prompt and output
rows = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=6, max_size=16)
configs = st.fixed_dictionaries(
    {
        "num_blocks": st.sampled_from([20, 40, 400]),
        "max_num_seqs": st.integers(1, 12),
        "max_num_batched_tokens": st.sampled_from([16, 64]),
    }
)


def run_of(tenants: dict[str, list[Row]], config: dict[str, Any], **fields: Any) -> SchedulerRun:
    run = SchedulerRun(make_config(**config))
    for tenant, lengths in tenants.items():
        for number, (length, max_tokens) in enumerate(lengths):
            run.add(request(tenant, number, length, max_tokens=max_tokens, **fields))
    return run


@settings(max_examples=40, deadline=None, derandomize=True)
@given(a=rows, b=rows, config=configs)
def test_two_backlogged_tenants_are_never_far_apart(a: list[Row], b: list[Row], config: dict[str, Any]) -> None:
    """The paper's bound: the longest prompt, or twice the tokens that can run at once; claims add their slack."""
    run = run_of({"a": a, "b": b}, config)
    capacity = min(config["num_blocks"] * 4, config["max_num_seqs"] * 60)
    bound = max(40, 2 * capacity)
    assert bound < 5 * shares._SLACK
    while len(run.scheduler._lifecycle.waiting.accounts(1)) == 2:
        first, second = (account.counter for account in accounts(run).values())
        assert abs(first - second) <= bound
        run.step()
    run.finish()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(a=rows, b=rows, c=rows, config=configs, caching=st.booleans())
def test_all_end_are_charged_once_and_claim_once(
    a: list[Row], b: list[Row], c: list[Row], config: dict[str, Any], caching: bool
) -> None:
    run = run_of({"a": a, "b": b, "c": c}, {**config, "enable_prefix_caching": caching})
    requests = [each.request for each in run.scheduler._lifecycle.sequences.values()]
    of_tenant = accounts(run)
    transcript = run.finish()
    assert transcript.ids == {each.id: expected_ids(each) for each in requests}
    for tenant, account in of_tenant.items():
        own = [each for each in requests if each.tenant == tenant]
        num_prompt = sum(len(each.prompt_ids) - transcript.last[each.id].num_cached_tokens for each in own)
        assert account.counter == pytest.approx(num_prompt + 2 * sum(len(transcript.ids[each.id]) for each in own))
    assert num_fair_preemptions(run) <= len(requests) * config["max_num_seqs"]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(lengths=rows, config=configs)
def test_one_tenant_is_served_as_those_without_a_name(lengths: list[Row], config: dict[str, Any]) -> None:
    def plans(**fields: Any) -> list[list[tuple[str, int, int]]]:
        run = SchedulerRun(make_config(**config))
        for number, (length, max_tokens) in enumerate(lengths):
            run.add(make_request(f"{number}", make_prompt(length, number), max_tokens=max_tokens, **fields))
            run.step()
        run.finish()
        return run.plans

    assert plans(tenant="a", tenant_weight=7.0) == plans()
