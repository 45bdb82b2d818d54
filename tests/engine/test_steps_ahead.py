"""Steps that are launched before the step before them is collected, over a ledger that knows the tokens between."""

from collections.abc import Callable
from typing import Any

import pytest

from engine.grammar.sequence_grammar import SequenceGrammar
from engine.protocol import AbortReason, FinishReason, RequestOutput, ServiceClass
from engine.scheduling.plan import StepPlan, StepResult
from engine.speculation.ngram import NgramProposer
from engine.speculation.speculator import Speculator
from models.errors import DeviceLostError
from tests.helpers.engines import (
    SchedulerRun,
    expected_ids,
    make_adapter,
    make_config,
    make_engine,
    make_prompt,
    make_request,
)
from tests.helpers.grammars import GRAMMARS, ledger_vocabulary
from tests.helpers.ledger import EOS_ID, LedgerRunner, LedgerStep
from tests.helpers.local_client import LocalClient
from tests.helpers.memory_tier import MemoryTier

pytestmark = pytest.mark.fast

SHORTAGE = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")


def requests_of(*lengths: int, **options: Any) -> list[Any]:
    """Requests for texts of these lengths."""
    return [
        make_request(f"r{number}", make_prompt(5, seed=number), max_tokens=length, ignore_eos=True, **options)
        for number, length in enumerate(lengths)
    ]


def test_all_steps_of_generation_but_the_first_are_launched_ahead() -> None:
    engine, runner = make_engine(feeds=True)
    requests = requests_of(20, 20, 20)
    client = LocalClient(engine)
    outputs = client.generate(requests)
    assert [outputs[each.id].new_ids for each in requests] == [expected_ids(each) for each in requests]
    assert len(client.steps) == 20
    assert runner.num_fed == 19


def test_a_call_returns_the_outputs_of_one_step_while_the_next_runs() -> None:
    engine, runner = make_engine(feeds=True)
    (request,) = requests_of(3)
    engine.add(request)
    first = engine.step()
    assert [output.new_ids for output in first.outputs] == [expected_ids(request)[:1]]
    assert len(runner._pending) == 1
    assert [len(output.new_ids) for _ in range(2) for output in engine.step().outputs] == [1, 1]
    assert not engine.has_work
    assert runner._pending == []


def test_lengths_are_known_ahead_so_that_nothing_is_computed_in_vain() -> None:
    engine, runner = make_engine(feeds=True)
    LocalClient(engine).generate(requests_of(4, 9, 2))
    assert runner.num_tokens == 3 * 5 + 3 + 8 + 1


def test_a_row_after_a_stop_token_is_dropped_and_its_block_freed_only_after_the_step() -> None:
    """The stop token ends a block, so that the row after it has a block of its own."""
    engine, _ = make_engine(feeds=True, block_size=8)
    prompt = make_prompt(5)
    third = expected_ids(make_request("x", prompt, max_tokens=3, ignore_eos=True))[2]
    engine.add(make_request("stops", prompt, max_tokens=20, ignore_eos=True, stop_token_ids=[third]))
    for _ in range(2):
        assert engine.step().outputs[0].finish_reason is None
    end = engine.step()
    assert [(output.finish_reason, output.stop_token_id) for output in end.outputs] == [(FinishReason.STOP, third)]
    assert end.stats.blocks_used == 1  # of the row that is computed in vain
    assert end.stats.running == 0
    assert engine.has_work
    last = engine.step()
    assert (last.outputs, last.stats.blocks_used, last.stats.decode_tokens) == ([], 0, 0)
    assert not engine.has_work


def test_the_row_of_an_aborted_request_is_dropped_and_its_id_free_again() -> None:
    engine, runner = make_engine(feeds=True)
    kept, aborted = requests_of(12, 12)
    engine.add(kept)
    engine.add(aborted)
    outputs: list[RequestOutput] = []
    for _ in range(3):
        outputs += engine.step().outputs
    engine.abort(aborted.id, AbortReason.STOP_STRING)
    outputs += engine.step().outputs
    assert [each.finish_reason for each in outputs if each.id == aborted.id] == [None] * 3 + [FinishReason.STOP]
    again = make_request(aborted.id, make_prompt(7, seed=9), max_tokens=4, ignore_eos=True)
    merged = LocalClient(engine).generate([again])
    assert merged[again.id].new_ids == expected_ids(again)
    assert [id for each in outputs if each.id == kept.id for id in each.new_ids] + merged[kept.id].new_ids == (
        expected_ids(kept)
    )
    assert runner.released.count(aborted.id) == 2


def test_a_new_request_joins_the_next_step_that_is_planned() -> None:
    engine, _ = make_engine(feeds=True)
    running, new = requests_of(20, 20)
    engine.add(running)
    for _ in range(3):
        engine.step()
    engine.add(new)
    ids = [[output.id for output in engine.step().outputs] for _ in range(3)]
    assert ids == [["r0"], ["r0", "r1"], ["r0", "r1"]]


def test_a_request_that_waits_for_a_slot_is_looked_at_again_after_a_few_steps() -> None:
    """And at once when the slot is free."""
    engine, runner = make_engine(feeds=True, max_num_seqs=1)
    requests = requests_of(40, 5)
    client = LocalClient(engine)
    outputs = client.generate(requests)
    assert [outputs[each.id].new_ids for each in requests] == [expected_ids(each) for each in requests]
    assert len(client.steps) == 45
    assert runner.num_fed == 34 + 4  # of 38 and 5; the second step of the first is the one that finds no slot


@pytest.mark.parametrize(
    ("options", "engine_options"),
    [
        ({"prompt_logprobs": 0}, {}),
        ({"prediction_ids": [1, 2, 3]}, {}),
        ({"max_tokens": 1}, {}),
        ({}, {"speculator": Speculator(4, lookups=[NgramProposer()])}),
        ({}, {"num_states": 8}),
        ({}, {"feeds": False}),
    ],
    ids=["prompt logprobs", "predicted tokens", "one token", "drafts", "states", "a runner that feeds no tokens"],
)
def test_steps_that_need_what_the_host_does_not_have_are_not_launched_ahead(
    options: dict[str, Any], engine_options: dict[str, Any]
) -> None:
    engine, runner = make_engine(**{"feeds": True, **engine_options})
    request = make_request("r", make_prompt(6), **{"max_tokens": 9, "ignore_eos": True, **options})
    assert LocalClient(engine).generate([request])["r"].new_ids == expected_ids(request)
    assert runner.num_fed == 0


class FaultyRunner:
    """A ledger whose launches or collected steps raise if `fails` says so, after they have written."""

    def __init__(self, ledger: LedgerRunner, fails: Callable[[StepPlan], bool], error: Exception, at: str) -> None:
        self._ledger, self._fails, self._error, self._at = ledger, fails, error, at
        self.kv_groups, self.copies_blocks = ledger.kv_groups, ledger.copies_blocks
        self.can_feed, self.release = ledger.can_feed, ledger.release

    def launch(self, plan: StepPlan) -> LedgerStep:
        pending = self._ledger.launch(plan)
        if self._at == "launch" and self._fails(plan):
            self._ledger._pending.remove(pending)
            raise self._error
        return pending

    def collect(self, pending: LedgerStep) -> StepResult:
        result = self._ledger.collect(pending)
        if self._at == "collect" and self._fails(pending.plan):
            raise self._error
        return result


@pytest.mark.parametrize("at", ["launch", "collect"])
def test_a_fault_ends_the_request_that_causes_it_and_no_other(at: str) -> None:
    """Whose rows begin to fail in the fourth step, while the fifth runs or is launched."""
    engine, ledger = make_engine(feeds=True)

    def fails(plan: StepPlan) -> bool:
        return any(item.sequence.id == "r1" and item.start >= 8 for item in plan.items)

    engine._runner = FaultyRunner(ledger, fails, RuntimeError("a kernel failed"), at)
    requests = requests_of(12, 12, 7)
    client = LocalClient(engine)
    outputs = client.generate(requests)
    assert [outputs[each.id].finish_reason for each in requests] == [
        FinishReason.LENGTH,
        FinishReason.ERROR,
        FinishReason.LENGTH,
    ]
    assert all(outputs[each.id].new_ids == expected_ids(each) for each in requests if each.id != "r1")
    assert outputs["r1"].new_ids == expected_ids(requests[1])[:4]
    assert client.steps[-1].blocks_used == 0
    assert ledger.num_fed > 8


@pytest.mark.parametrize("at", ["launch", "collect"])
def test_a_step_without_memory_is_computed_in_smaller_ones(at: str) -> None:
    engine, ledger = make_engine(feeds=True)
    engine._runner = FaultyRunner(ledger, lambda plan: plan.num_tokens > 2, SHORTAGE, at)
    requests = requests_of(9, 5, 9, 9)
    client = LocalClient(engine)
    outputs = client.generate(requests)
    assert [outputs[each.id].new_ids for each in requests] == [expected_ids(each) for each in requests]
    assert client.steps[-1].blocks_used == 0


def test_an_ended_sequence_is_left_out_when_its_step_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The step was launched before the sequence was known to have ended."""
    engine, ledger = make_engine(feeds=True)
    failed: list[int] = []

    def fails(plan: StepPlan) -> bool:
        if len(plan.items) == 2 and plan.items[0].start == 7:
            failed.append(plan.items[0].start)
            return True
        return False

    engine._runner = FaultyRunner(ledger, fails, RuntimeError("a kernel failed"), "collect")
    _, goes_on = requests_of(9, 9)
    stop = expected_ids(make_request("x", make_prompt(5), max_tokens=3, ignore_eos=True))[2]
    ends = make_request("r0", make_prompt(5), max_tokens=9, ignore_eos=True, stop_token_ids=[stop])
    outputs = LocalClient(engine).generate([ends, goes_on])
    assert outputs["r0"].finish_reason is FinishReason.STOP
    assert outputs["r1"].new_ids == expected_ids(goes_on)
    assert failed == [7]
    assert "fails alone" not in caplog.text


def test_a_device_that_has_failed_for_good_ends_the_engine() -> None:
    engine, ledger = make_engine(feeds=True)
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    engine._runner = FaultyRunner(ledger, lambda plan: plan.token_rows is not None, error, "launch")
    engine.add(requests_of(9)[0])
    with pytest.raises(DeviceLostError):
        engine.step()


def test_grammars_and_other_requests_share_steps_that_are_not_launched_ahead() -> None:
    run = SchedulerRun(make_config(), feeds=True)
    plain = requests_of(12)[0]
    with_grammar = make_request("g", make_prompt(3), max_tokens=6, grammar=GRAMMARS[0])
    transcript = run.run([plain, with_grammar])
    assert transcript.ids["r0"] == expected_ids(plain)
    assert transcript.ids["g"] == expected_ids(with_grammar)
    assert 0 < run.runner.num_fed < 11


def test_requests_with_adapters_are_planned_ahead_while_their_slots_get_others() -> None:
    run = SchedulerRun(make_config(num_adapter_slots=2), feeds=True)
    requests = [
        make_request(name, make_prompt(5), adapter=make_adapter(name), max_tokens=4 + 3 * number, ignore_eos=True)
        for number, name in enumerate("abc")
    ]
    transcript = run.run([*requests, *requests_of(9)])
    for request in requests:
        assert transcript.ids[request.id] == expected_ids(request)
    assert run.runner.num_fed > 4


def test_batches_are_planned_ahead_and_yield_to_a_client() -> None:
    engine, runner = make_engine(feeds=True)
    (batch,) = requests_of(20, service_class=ServiceClass.BATCH)
    engine.add(batch)
    for _ in range(4):
        engine.step()
    client = make_request("client", make_prompt(4, seed=8), max_tokens=6, ignore_eos=True)
    outputs = LocalClient(engine).generate([client])
    assert outputs["client"].new_ids == expected_ids(client)
    assert outputs["r0"].new_ids == expected_ids(batch)[4:]
    assert runner.num_fed > 18


def test_a_client_that_grows_spares_cached_prefixes_while_batches_are_paused() -> None:
    """A step that would take a block of a client's prefix is planned when the one before it is known: then a batch
    gives back blocks."""
    run = SchedulerRun(make_config(num_blocks=16, block_size=4), feeds=True)
    for number in range(3):  # of 4 blocks: more than half of the pool
        prompt = make_prompt(13, seed=number)
        run.add(make_request(f"batch {number}", prompt, max_tokens=9, service_class=ServiceClass.BATCH))
    run.step()
    prefix = make_prompt(13, seed=7)
    run.add(make_request("first", prefix, max_tokens=1))  # leaves 3 blocks in the cache, and a blank one
    run.step()
    run.step()
    run.add(make_request("grows", make_prompt(4, seed=8), max_tokens=4, ignore_eos=True))  # into a second block
    run.step()
    run.step()
    assert run.stats[-1].batch_preemptions + run.stats[-2].batch_preemptions == 1
    run.add(make_request("again", prefix, max_tokens=1))
    run.finish()
    assert run.transcript.last["again"].num_cached_tokens == 12


def steps_until_admitted(run: SchedulerRun, name: str) -> int:
    """The number of the step that computes the first tokens of a sequence."""
    first = len(run.plans)
    while not any(id == name for id, _, _ in run.plans[-1]):
        run.step()
    return len(run.plans) - first


def test_a_request_whose_grammar_is_compiled_joins_the_next_step_that_is_planned() -> None:
    run = SchedulerRun(make_config(), feeds=True)
    run.add(requests_of(30)[0])
    grammar = SequenceGrammar(frozenset([EOS_ID]), appends_forced=True)
    run.scheduler.add(make_request("g", make_prompt(3), max_tokens=6, grammar=GRAMMARS[0]), grammar)
    for _ in range(4):
        run.step()
    grammar.start(ledger_vocabulary().matcher(GRAMMARS[0]))
    assert steps_until_admitted(run, "g") == 2
    assert run.runner.num_fed > 2


def test_a_request_whose_blocks_are_read_joins_the_next_step_that_is_planned() -> None:
    tier = MemoryTier(is_late=True)
    run = SchedulerRun(make_config(num_blocks=20), tier=tier, feeds=True, read_steps=1000)
    prompt = make_prompt(21)
    for number, each in enumerate([prompt, make_prompt(76, seed=1)]):  # the second evicts the first
        run.run([make_request(f"p{number}", each, max_tokens=1)])
    run.add(requests_of(30)[0])
    run.step()
    run.add(make_request("again", prompt, max_tokens=1))
    for _ in range(4):
        run.step()
    tier.finish()
    assert steps_until_admitted(run, "again") == 2
    assert run.transcript.last["again"].num_cached_tokens == 20


def test_a_request_whose_adapter_is_in_its_slot_joins_the_next_step_that_is_planned() -> None:
    run = SchedulerRun(make_config(num_adapter_slots=1), feeds=True, fill_steps=6)
    run.add(requests_of(30)[0])
    run.step()
    run.add(make_request("adapted", make_prompt(5), adapter=make_adapter("a"), max_tokens=1))
    while not run._fills:
        run.step()
    (filled_at, _) = run._fills[0]
    while len(run.plans) < filled_at:
        run.step()
    assert steps_until_admitted(run, "adapted") == 2


def test_a_request_that_takes_the_place_of_an_aborted_one_joins_the_next_step_that_is_planned() -> None:
    """Waiting and running requests are counted as in the last full plan."""
    run = SchedulerRun(make_config(num_blocks=16), feeds=True)
    run.add(requests_of(30)[0])
    run.step()
    run.add(make_request("too long", make_prompt(60, seed=1), max_tokens=4, ignore_eos=True))
    for _ in range(4):
        run.step()
    run.scheduler.abort("too long", AbortReason.CLIENT_GONE)
    run.step()
    run.add(make_request("short", make_prompt(4, seed=2), max_tokens=1))
    assert steps_until_admitted(run, "short") == 2
