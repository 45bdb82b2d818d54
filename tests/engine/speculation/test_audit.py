"""The audit: speculated requests that are repeated, what counts where, and what a disagreement does."""

import pytest

from engine.config import SchedulingPolicy
from engine.engine import Engine
from engine.protocol import AuditVerdict, ServiceClass, StepOutputs, StepStats, TokenLogprobs
from engine.speculation.audit import compare_outputs
from tests.helpers.drafting import AlwaysFull, Oracle, speculating_engine
from tests.helpers.engines import expected_ids, make_prompt, make_request
from tests.helpers.ledger import LedgerRow, LedgerRunner
from tests.helpers.local_client import LocalClient


def _auditing_engine(**options: object) -> tuple[Engine, LedgerRunner]:
    return speculating_engine(AlwaysFull(4, lookups=[Oracle(0.8)]), spec_audit_rate=1.0, **options)


def _scores(*top: tuple[int, float]) -> TokenLogprobs:
    return TokenLogprobs(top[0][0], top[0][1], list(top))


def test_outputs_may_diverge_at_a_near_tie_and_nowhere_else() -> None:
    sure = _scores((5, -0.1), (6, -3.0))
    tie = _scores((7, -0.70), (8, -0.74))
    assert compare_outputs([5, 7], [5, 7], [sure, tie]) is AuditVerdict.EQUAL
    assert compare_outputs([5, 8, 1], [5, 7, 2], [sure, tie, sure]) is AuditVerdict.NEAR_TIE
    assert compare_outputs([6, 7], [5, 7], [sure, tie]) is AuditVerdict.DISAGREEMENT
    assert compare_outputs([5, 9], [5, 7], [sure, tie]) is AuditVerdict.DISAGREEMENT  # neither of the two


def test_outputs_may_diverge_where_three_tokens_are_almost_equal() -> None:
    tie = _scores((7, -1.10), (8, -1.11), (9, -1.14), (6, -1.16))
    assert compare_outputs([9], [7], [tie]) is AuditVerdict.NEAR_TIE
    assert compare_outputs([6], [7], [tie]) is AuditVerdict.DISAGREEMENT


def test_a_repeat_is_invisible_and_counted_nowhere() -> None:
    engine, runner = _auditing_engine()
    request = make_request("a", make_prompt(9), max_tokens=20, temperature=0.0, ignore_eos=True)
    client = LocalClient(engine)
    outputs = client.generate([request])
    assert list(outputs) == ["a"]
    assert outputs["a"].new_ids == expected_ids(request)
    assert [step.audit for step in client.steps if step.audit] == [AuditVerdict.EQUAL]
    assert sum(step.prefill_tokens + step.decode_tokens for step in client.steps) < runner.num_tokens - 20
    assert sum(step.prefix_queries for step in client.steps) == 9
    assert max(step.running for step in client.steps) == 1
    assert client.steps[-1].running == 0


def test_requests_whose_drafts_were_all_rejected_are_audited_too() -> None:
    engine, _ = speculating_engine(AlwaysFull(4, lookups=[Oracle(0.0)]), spec_audit_rate=1.0)
    client = LocalClient(engine)
    client.generate([make_request("a", make_prompt(9), max_tokens=20, temperature=0.0, ignore_eos=True)])
    assert sum(step.accepted_tokens for step in client.steps) == 0
    assert [step.audit for step in client.steps if step.audit] == [AuditVerdict.EQUAL]


def _start_repeat(engine: Engine, **request: object) -> list[StepStats]:
    """Steps until the repeat of a request has started."""
    engine.add(make_request("a", make_prompt(9), max_tokens=20, temperature=0.0, ignore_eos=True, **request))  # type: ignore[arg-type]
    steps = []
    while not any(sequence.request.service_class is ServiceClass.AUDIT for sequence in engine._scheduler.running):
        steps.append(engine.step().stats)
    return steps


@pytest.mark.parametrize("policy", SchedulingPolicy)
def test_a_repeat_yields_to_any_request_that_waits(policy: SchedulingPolicy) -> None:
    """In a pool that holds one sequence, under any policy: the newcomer is computed first, then the repeat."""
    engine, _ = _auditing_engine(num_blocks=8, policy=policy)
    steps = _start_repeat(engine, priority=-9)
    request = make_request("b", make_prompt(9, seed=1), max_tokens=20, temperature=0.0, ignore_eos=True, priority=9)
    engine.add(request)
    outputs = engine.step().outputs
    assert [output.id for output in outputs] == ["b"]
    while engine.has_work:
        steps.append(engine.step().stats)
    assert sum(step.preemptions for step in steps) == 0
    assert sum(step.recomputed_tokens for step in steps) == 0
    assert AuditVerdict.EQUAL in [step.audit for step in steps]


def test_steps_with_nothing_but_a_repeat_take_no_time_and_leave_nothing_in_the_cache() -> None:
    engine, _ = _auditing_engine()
    steps = _start_repeat(engine)
    cached = steps[-1].blocks_cached
    while engine.has_work:
        steps.append(engine.step().stats)
        assert steps[-1].step_s == 0.0
    assert steps[-1].audit is AuditVerdict.EQUAL
    assert steps[-1].blocks_cached == cached


def test_the_rate_is_an_option() -> None:
    verdicts = []
    for rate in (0.0, 0.3, 1.0):
        engine, _ = speculating_engine(AlwaysFull(4, lookups=[Oracle(0.8)]), spec_audit_rate=rate)
        client = LocalClient(engine)
        for n in range(20):
            request = make_request(f"r{n}", make_prompt(4, seed=n), max_tokens=6, temperature=0.0, ignore_eos=True)
            client.generate([request])
        verdicts.append(sum(step.audit is not None for step in client.steps))
    assert verdicts[0] == 0
    assert 1 <= verdicts[1] <= 12
    assert verdicts[2] == 20


@pytest.mark.parametrize("sampling", [{"temperature": 1.0}, {"temperature": 0.0, "logit_bias": {3: 1.0}}])
def test_only_what_the_raw_logits_decide_is_audited(sampling: dict[str, object]) -> None:
    engine, _ = _auditing_engine()
    client = LocalClient(engine)
    client.generate([make_request("a", make_prompt(9), max_tokens=20, ignore_eos=True, **sampling)])
    assert all(step.audit is None for step in client.steps)


def test_a_disagreement_switches_speculation_off(caplog: pytest.LogCaptureFixture) -> None:
    engine, runner = _auditing_engine()
    verify, result = runner._verify, runner._result

    def accept_all(row: LedgerRow) -> list[int]:
        """A fault: all drafted tokens are accepted."""
        drafted = row.history[row.item.num_certain :]
        return [*drafted, *verify(row)][: len(drafted) + 1]

    runner._verify = accept_all  # type: ignore[method-assign]
    runner._result = lambda row: _with_scores(result(row))  # type: ignore[method-assign]
    steps: list[StepOutputs] = []
    engine.add(make_request("a", make_prompt(9), max_tokens=20, temperature=0.0, ignore_eos=True, logprobs=2))
    while engine.has_work:
        steps.append(engine.step())
    assert AuditVerdict.DISAGREEMENT in [step.stats.audit for step in steps]
    assert steps[-1].stats.is_speculation_off
    assert "speculation is off" in caplog.text


def _with_scores(row):  # type: ignore[no-untyped-def]
    """A row result whose log probabilities leave no doubt."""
    from engine.scheduling.plan import RowResult

    scores = [TokenLogprobs(token_id, -0.1, [(token_id, -0.1), (-1, -9.0)]) for token_id in row.token_ids]
    return RowResult(row.token_ids, scores if row.logprobs is not None else None, row.prompt_logprobs, row.error)
