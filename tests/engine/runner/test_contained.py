"""A fault of the runner ends the sequences that cause it; steps without memory are computed in smaller ones."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest

from engine.protocol import FinishReason, ScoredQuestion, ScoringRequest
from engine.scheduling.plan import StepPlan, StepResult
from models.errors import DeviceLostError
from tests.helpers.engines import expected_ids, make_engine, make_prompt, make_request
from tests.helpers.ledger import LedgerRunner, LedgerStep
from tests.helpers.local_client import LocalClient

pytestmark = pytest.mark.fast


class FaultyRunner:
    """A ledger whose steps raise if `fails` says so, after they have written what they had to."""

    def __init__(self, ledger: LedgerRunner, fails: Callable[[StepPlan], bool], error: Exception) -> None:
        self._ledger = ledger
        self._fails = fails
        self._error = error
        self.kv_groups = ledger.kv_groups
        self.copies_blocks = ledger.copies_blocks
        self.release = ledger.release

    def launch(self, plan: StepPlan) -> LedgerStep:
        return self._ledger.launch(plan)

    def can_feed(self, pending: LedgerStep) -> bool:
        return self._ledger.can_feed(pending)

    def collect(self, pending: LedgerStep) -> StepResult:
        result = self._ledger.collect(pending)
        if self._fails(pending.plan):
            raise self._error
        return result


def _has(*ids: str) -> Callable[[StepPlan], bool]:
    return lambda plan: any(item.sequence.id in ids for item in plan.items)


def test_a_fault_of_the_runner_ends_the_sequences_that_cause_it(caplog: pytest.LogCaptureFixture) -> None:
    engine, ledger = make_engine(max_num_seqs=3)
    engine._runner = FaultyRunner(ledger, _has("r1"), RuntimeError("CUDA error: out of luck"))
    requests = [make_request(f"r{i}", make_prompt(5, seed=i), ignore_eos=True) for i in range(4)]
    client = LocalClient(engine)
    outputs = client.generate(requests)
    reasons = [outputs[r.id].finish_reason for r in requests]
    assert reasons == [FinishReason.LENGTH, FinishReason.ERROR, FinishReason.LENGTH, FinishReason.LENGTH]
    assert outputs["r1"].error == "the engine failed while it computed this request: RuntimeError"
    assert all(outputs[r.id].new_ids == expected_ids(r) for r in requests if r.id != "r1")
    assert "for requests r0, r1, r2" in caplog.text
    assert "request r1 fails alone" in caplog.text
    assert client.steps[-1].blocks_used == 0
    assert sorted(ledger.released) == ["r0", "r1", "r2", "r3"]


class Tensor:
    """A stand-in for the memory of a step, which a reference can watch."""


def test_what_a_failed_step_holds_is_freed_before_its_requests_are_computed_again() -> None:
    engine, ledger = make_engine(max_num_seqs=3)
    held: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []

    def fail(tensor: Tensor) -> None:
        held.append(weakref.ref(tensor))
        try:
            raise RuntimeError("CUDA error: invalid argument")
        except RuntimeError as error:
            raise ValueError("a kernel failed") from error

    def fails(plan: StepPlan) -> bool:
        alive.append(any(each() is not None for each in held))
        if len(plan.items) > 1 or plan.items[0].sequence.id == "r0":
            fail(Tensor())
        return False

    engine._runner = FaultyRunner(ledger, fails, RuntimeError())
    requests = [make_request(f"r{i}", make_prompt(5, seed=i), max_tokens=1, ignore_eos=True) for i in range(3)]
    outputs = LocalClient(engine).generate(requests)
    reasons = [outputs[r.id].finish_reason for r in requests]
    assert reasons == [FinishReason.ERROR, FinishReason.LENGTH, FinishReason.LENGTH]
    assert alive == [False] * 4  # together, and each alone


STICKY = "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress' in ..."


def test_a_device_that_has_failed_for_good_ends_the_engine_and_no_request() -> None:
    """Requests computed one by one would all fail, and so would those after them."""
    engine, ledger = make_engine(max_num_seqs=3)
    engine._runner = FaultyRunner(ledger, _has("r1"), RuntimeError(STICKY))
    for number in range(3):
        engine.add(make_request(f"r{number}", make_prompt(5, seed=number)))
    with pytest.raises(DeviceLostError, match="an illegal memory access"):
        engine.step()


def test_a_device_that_fails_for_good_while_requests_are_computed_apart_ends_the_engine() -> None:
    engine, ledger = make_engine(max_num_seqs=3)
    errors = iter([RuntimeError("CUDA error: invalid argument"), RuntimeError(STICKY)])
    runner = FaultyRunner(ledger, _has("r1"), RuntimeError())

    def fail(_: StepPlan) -> bool:
        runner._error = next(errors)
        return True

    runner._fails = fail
    engine._runner = runner
    for number in range(2):
        engine.add(make_request(f"r{number}", make_prompt(5, seed=number)))
    with pytest.raises(DeviceLostError, match="an illegal memory access"):
        engine.step()


def test_a_step_that_may_have_overwritten_states_ends_all_its_sequences() -> None:
    engine, ledger = make_engine(num_states=8)
    engine._runner = FaultyRunner(ledger, _has("r1"), RuntimeError("a kernel failed"))
    requests = [make_request(f"r{i}", make_prompt(5, seed=i), ignore_eos=True) for i in range(2)]
    outputs = LocalClient(engine).generate(requests)
    assert [outputs[r.id].finish_reason for r in requests] == [FinishReason.ERROR] * 2


def test_a_step_that_may_have_lost_copies_ends_the_sequences_that_need_them() -> None:
    engine, ledger = make_engine(num_blocks=96)
    engine._runner = FaultyRunner(ledger, lambda plan: bool(plan.copies), RuntimeError("a kernel failed"))
    questions = [ScoredQuestion([number, 1], [[(1,)], [(2,)]]) for number in range(3)]
    scoring = ScoringRequest(id="s", prompt_ids=make_prompt(9), questions=questions, arrival_s=0.0)
    other = make_request("other", make_prompt(5), max_tokens=4, ignore_eos=True)
    outputs = LocalClient(engine).generate([scoring, other])
    assert outputs["other"].new_ids == expected_ids(other)
    assert outputs["s"].finish_reason is FinishReason.ERROR


@pytest.mark.parametrize("most_tokens", [1, 3, 20])
@pytest.mark.parametrize(
    "options", [{}, {"enable_prefix_caching": False}, {"windows": (None, 6)}, {"num_states": 6}], ids=str
)
def test_a_step_without_memory_is_computed_in_smaller_ones(most_tokens: int, options: dict[str, Any]) -> None:
    """The step may have written anything before memory ran out."""
    engine, ledger = make_engine(max_num_seqs=6, num_blocks=96, **options)
    shortage = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    engine._runner = FaultyRunner(ledger, lambda plan: plan.num_tokens > most_tokens, shortage)
    requests = [make_request(f"r{i}", make_prompt(4 + 9 * i, seed=i), max_tokens=9, seed=i) for i in range(5)]
    client = LocalClient(engine)
    outputs = client.generate(requests)
    assert {r.id: outputs[r.id].new_ids for r in requests} == {r.id: expected_ids(r) for r in requests}
    shortages = sum(stats.memory_shortages for stats in client.steps)
    assert 0 < shortages < len(client.steps) / 2
    assert client.steps[-1].blocks_used == 0


def test_a_request_that_memory_never_suffices_for_ends_and_others_go_on() -> None:
    """Also if it is the steps of one request that take too much, however small they are."""
    engine, ledger = make_engine()
    engine._runner = FaultyRunner(ledger, _has("big"), MemoryError())
    requests = [make_request(id, make_prompt(20, seed=len(id)), ignore_eos=True) for id in ("big", "small")]
    client = LocalClient(engine)
    outputs = client.generate(requests)
    assert outputs["big"].finish_reason is FinishReason.ERROR
    assert outputs["small"].new_ids == expected_ids(requests[1])
    assert len(client.steps) < 100
