"""Deadlines: sequences end at theirs, wherever they stand, and at no other time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.grammar.sequence_grammar import SequenceGrammar
from engine.protocol import AbortReason, FinishReason
from engine.scheduling.deadlines import Deadlines
from engine.scheduling.sequence import Sequence, SequenceStatus
from tests.helpers.engines import SchedulerRun, expected_ids, make_config, make_prompt, make_request
from tests.helpers.grammars import GRAMMARS
from tests.helpers.ledger import EOS_ID

pytestmark = pytest.mark.fast


def run_of(**config: int) -> SchedulerRun:
    """At 100 s of its clock."""
    return SchedulerRun(make_config(**config))


def test_a_running_sequence_ends_with_what_it_has() -> None:
    run = run_of()
    request = make_request("a", make_prompt(5), ignore_eos=True, deadline_s=101.0)
    run.add(request)
    run.step()
    run.step()
    run.now_s = 101.0
    transcript = run.finish()
    assert transcript.finish_reasons == {"a": FinishReason.TIMEOUT}
    assert transcript.ids["a"] == expected_ids(request)[:2]


def test_a_waiting_sequence_ends_in_the_queue() -> None:
    run = run_of(max_num_seqs=1)
    run.add(make_request("a", make_prompt(5), ignore_eos=True, max_tokens=4))
    run.add(make_request("b", make_prompt(5, seed=1), ignore_eos=True, deadline_s=101.0))
    run.step()
    run.now_s = 102.0
    run.step()
    assert run.transcript.finish_reasons == {"b": FinishReason.TIMEOUT}
    assert run.transcript.last["b"].queue_s is None
    assert run.finish().finish_reasons["a"] is FinishReason.LENGTH


def test_a_deadline_that_comes_within_a_step_ends_the_sequence_with_the_steps_tokens() -> None:
    run = run_of()
    run.add(make_request("a", make_prompt(5), ignore_eos=True, deadline_s=101.0))
    plan = run.scheduler.schedule()
    run.now_s = 101.0
    outputs = run.scheduler.update(plan, run.runner.execute(plan))
    assert [(len(output.new_ids), output.finish_reason) for output in outputs] == [(1, None), (0, FinishReason.TIMEOUT)]
    run.scheduler.check()


def test_a_deadline_that_passed_before_intake_ends_the_sequence_unstarted() -> None:
    run = run_of()
    run.add(make_request("a", make_prompt(5), deadline_s=99.0))
    run.step()
    assert run.transcript.finish_reasons == {"a": FinishReason.TIMEOUT}
    assert run.runner.num_tokens == 0


def test_a_sequence_that_waits_for_its_grammar_is_work_when_its_time_is_over() -> None:
    run = run_of()
    request = make_request("a", make_prompt(5), grammar=GRAMMARS[0], deadline_s=101.5)
    run.scheduler.add(request, SequenceGrammar(frozenset([EOS_ID]), appends_forced=True))
    assert not run.scheduler.has_work
    assert run.scheduler.seconds_to_deadline == 1.5
    run.now_s = 101.5
    assert run.scheduler.has_work
    assert run.finish().finish_reasons == {"a": FinishReason.TIMEOUT}
    assert run.scheduler.seconds_to_deadline is None


def test_a_sequence_that_is_aborted_at_its_deadline_ends_once() -> None:
    run = run_of()
    run.add(make_request("a", make_prompt(5), ignore_eos=True, deadline_s=101.0))
    run.step()
    run.now_s = 101.0
    run.scheduler.abort("a", AbortReason.CLIENT_GONE)
    assert run.finish().finish_reasons == {"a": FinishReason.ABORT}


def _sequence(name: str, deadline_s: float | None) -> Sequence:
    request = make_request(name, [1], deadline_s=deadline_s)
    return Sequence(request=request, seed=0, tokens=[1], num_prompt=1)


_TIMES = st.none() | st.integers(0, 20)


@given(st.lists(st.tuples(st.sampled_from(["add", "end", "take"]), _TIMES), max_size=300))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_heap_agrees_with_a_list(operations: list[tuple[str, int | None]]) -> None:
    deadlines, alive, now_s = Deadlines(), list[Sequence](), 0
    for number, (operation, value) in enumerate(operations):
        if operation == "add":
            sequence = _sequence(str(number), None if value is None else now_s + value)
            alive.append(sequence)
            deadlines.add(sequence)
        elif operation == "end" and alive:
            sequence = alive.pop((value or 0) % len(alive))
            sequence.status = SequenceStatus.FINISHED
            deadlines.forget(sequence)
        else:
            now_s += (value or 0) // 4
            due = [s for s in alive if s.request.deadline_s is not None and s.request.deadline_s <= now_s]
            assert deadlines.take_due(now_s) == sorted(due, key=lambda s: s.request.deadline_s or 0)
            for sequence in due:
                sequence.status = SequenceStatus.FINISHED
                alive.remove(sequence)
        deadlines.check(alive)
        given_s = [s.request.deadline_s for s in alive if s.request.deadline_s is not None]
        assert len(deadlines) == len(given_s)
        assert deadlines.next_s == min(given_s, default=None)


def test_finished_sequences_do_not_fill_the_heap() -> None:
    deadlines = Deadlines()
    last = _sequence("last", 2.0)
    deadlines.add(last)
    for number in range(10_000):
        sequence = _sequence(str(number), 1e6)
        deadlines.add(sequence)
        sequence.status = SequenceStatus.FINISHED
        deadlines.forget(sequence)
    assert len(deadlines._heap) < 100
    assert deadlines.take_due(2.0) == [last]
