"""Faults in speculation: they end no request, mute their own sequences, and end speculation only if they continue."""

import pytest

from engine.draft_model.model import DraftModel, NextTokens
from engine.engine import Engine
from engine.protocol import EngineRequest
from engine.scheduling.plan import StepPlan
from engine.scheduling.sequence import Sequence
from engine.speculation.speculator import Speculator
from tests.helpers.drafting import AlwaysFull, LedgerDraftRunner, Oracle, generate, speculating_engine
from tests.helpers.engines import expected_ids, make_prompt, make_request


class Forgiving(AlwaysFull):
    """Continues after a fault, as the server does."""

    def record_fault(self) -> None:
        Speculator.record_fault(self)


class FailingRunner(LedgerDraftRunner):
    """Raises where one of `ids` drafts."""

    def __init__(self, *ids: str) -> None:
        super().__init__(64, 4, 1.0)
        self._ids = ids

    def next_tokens(self, plan: StepPlan) -> NextTokens:
        if any(item.sequence.id in self._ids for item in plan.items):
            raise RuntimeError("no luck")
        return super().next_tokens(plan)


def _engine(runner: LedgerDraftRunner) -> Engine:
    return speculating_engine(Forgiving(4, drafter=DraftModel(runner, block_size=4, max_len=1000)))[0]


def _request(id: str) -> EngineRequest:
    return make_request(id, make_prompt(6), max_tokens=12, ignore_eos=True)


def test_a_fault_ends_no_request_and_mutes_its_own() -> None:
    engine = _engine(FailingRunner("bad"))
    bad, good = _request("bad"), _request("good")
    ids, client = generate(engine, [bad])
    assert ids["bad"] == expected_ids(bad)
    assert sum(step.draft_tokens for step in client.steps) == 0
    ids, client = generate(engine, [good])
    assert ids["good"] == expected_ids(good)
    assert sum(step.draft_tokens for step in client.steps) > 0
    assert not client.steps[-1].is_speculation_off


def test_faults_with_drafts_between_them_do_not_end_speculation() -> None:
    engine = _engine(FailingRunner(*(f"bad{n}" for n in range(5))))
    for n in range(5):
        generate(engine, [_request(f"bad{n}")])
        _, client = generate(engine, [_request(f"good{n}")])
        assert sum(step.draft_tokens for step in client.steps) > 0


def test_faults_that_continue_end_speculation_for_good(caplog: pytest.LogCaptureFixture) -> None:
    engine = _engine(FailingRunner("r0", "r1", "r2"))
    for n in range(3):
        _, client = generate(engine, [_request(f"r{n}")])
        assert client.steps[-1].is_speculation_off == (n == 2)
    assert "speculation is off" in caplog.text
    engine.set_draft_sources(engine.draft_sources)  # for a comparison: it does not undo a fault
    _, client = generate(engine, [_request("good")])
    assert sum(step.draft_tokens for step in client.steps) == 0
    assert client.steps[-1].is_speculation_off


def test_granted_blocks_are_freed_after_a_fault() -> None:
    engine = _engine(FailingRunner("bad"))
    engine.add(_request("bad"))
    for _ in range(3):
        engine.step()  # checks that tables cover what is computed, and no more
    (sequence,) = engine._scheduler.running
    assert sequence.draft == []


def test_a_lookup_that_fails_for_one_request_drafts_for_the_others() -> None:
    class Failing(Oracle):
        def propose(self, sequence: Sequence, num_tokens: int) -> list[int]:
            if sequence.id == "bad":
                raise RuntimeError("no luck")
            return super().propose(sequence, num_tokens)

    engine, _ = speculating_engine(Forgiving(4, lookups=[Failing(1.0)]))
    requests = [_request("good"), _request("bad")]
    ids, client = generate(engine, requests)
    assert ids == {request.id: expected_ids(request) for request in requests}
    assert sum(step.draft_tokens for step in client.steps) > 0


def test_a_fault_in_learning_loses_no_output() -> None:
    speculator = Forgiving(4, lookups=[Oracle(1.0)])
    speculator._acceptance.observe = None  # type: ignore[method-assign, assignment]
    engine, _ = speculating_engine(speculator)
    request = make_request("a", make_prompt(6), max_tokens=20, ignore_eos=True)
    ids, client = generate(engine, [request])
    assert ids["a"] == expected_ids(request)
    assert client.steps[-1].is_speculation_off
