"""Limits of the time in the queue: what has not begun by then ends, and what has begun goes on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.grammar.sequence_grammar import SequenceGrammar
from engine.protocol import FinishReason
from engine.scheduling.sequence import Sequence, SequenceStatus
from engine.scheduling.start_limits import StartLimits
from engine.scheduling.step_tally import PreemptionReason
from tests.helpers.engines import SchedulerRun, make_config, make_prompt, make_request
from tests.helpers.grammars import GRAMMARS
from tests.helpers.ledger import EOS_ID

pytestmark = pytest.mark.fast


def test_what_waits_too_long_ends_before_any_of_it_is_computed() -> None:
    run = SchedulerRun(make_config(max_num_seqs=1))  # at 100 s of its clock
    run.add(make_request("a", make_prompt(5), ignore_eos=True, max_tokens=9))
    run.add(make_request("b", make_prompt(5, seed=1), start_by_s=101.0))
    run.step()
    run.now_s = 101.0
    run.step()
    assert run.transcript.finish_reasons == {"b": FinishReason.QUEUE_TIMEOUT}
    assert run.transcript.last["b"].queue_s is None
    assert run.finish().finish_reasons["a"] is FinishReason.LENGTH
    assert run.runner.num_tokens == 5 + 8  # the prompt of "a" and its output but the last token


def test_it_ends_although_a_place_is_free_by_then() -> None:
    run = SchedulerRun(make_config())
    run.add(make_request("a", make_prompt(5), start_by_s=99.0))
    run.step()
    assert run.transcript.finish_reasons == {"a": FinishReason.QUEUE_TIMEOUT}
    assert run.runner.num_tokens == 0


def test_what_has_begun_goes_on_even_if_it_is_preempted() -> None:
    run = SchedulerRun(make_config())
    run.add(make_request("a", make_prompt(5), ignore_eos=True, max_tokens=9, start_by_s=101.0))
    run.add(make_request("b", make_prompt(5, seed=1), ignore_eos=True, max_tokens=9, start_by_s=101.0))
    run.step()
    run.scheduler._lifecycle.preempt(run.scheduler.running[-1], PreemptionReason.MEMORY)
    run.now_s = 102.0
    assert run.finish().finish_reasons == {"a": FinishReason.LENGTH, "b": FinishReason.LENGTH}


def test_a_wait_for_a_grammar_is_one_too() -> None:
    run = SchedulerRun(make_config())
    request = make_request("a", make_prompt(5), grammar=GRAMMARS[0], start_by_s=101.5, deadline_s=103.0)
    run.scheduler.add(request, SequenceGrammar(frozenset([EOS_ID]), appends_forced=True))
    assert not run.scheduler.has_work
    assert run.scheduler.seconds_to_deadline == 1.5
    run.now_s = 101.5
    assert run.scheduler.has_work
    assert run.finish().finish_reasons == {"a": FinishReason.QUEUE_TIMEOUT}
    assert run.scheduler.seconds_to_deadline is None


def _sequence(name: str, start_by_s: float | None) -> Sequence:
    request = make_request(name, [1], start_by_s=start_by_s)
    return Sequence(request=request, seed=0, tokens=[1], num_prompt=1)


_TIMES = st.none() | st.integers(0, 20)


@given(st.lists(st.tuples(st.sampled_from(["add", "begin", "end", "take"]), _TIMES), max_size=300))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_heap_agrees_with_a_list(operations: list[tuple[str, int | None]]) -> None:
    limits, waiting, now_s = StartLimits(), list[Sequence](), 0
    for number, (operation, value) in enumerate(operations):
        if operation == "add":
            sequence = _sequence(str(number), None if value is None else now_s + value)
            waiting.append(sequence)
            limits.add(sequence)
        elif operation in ("begin", "end") and waiting:
            sequence = waiting.pop((value or 0) % len(waiting))
            if operation == "begin":
                sequence.num_admitted = 1
            else:
                sequence.status = SequenceStatus.FINISHED
        else:
            now_s += (value or 0) // 4
            due = [s for s in waiting if s.request.start_by_s is not None and s.request.start_by_s <= now_s]
            assert limits.take_due(now_s) == sorted(due, key=lambda s: s.request.start_by_s or 0)
            for sequence in due:
                sequence.status = SequenceStatus.FINISHED
                waiting.remove(sequence)
        limits.check(waiting)
        given_s = [s.request.start_by_s for s in waiting if s.request.start_by_s is not None]
        assert limits.next_s == min(given_s, default=None)


def test_sequences_that_have_begun_do_not_fill_the_heap() -> None:
    limits = StartLimits()
    last = _sequence("last", 1e7)
    limits.add(last)
    for number in range(10_000):
        sequence = _sequence(str(number), 1e6)
        limits.add(sequence)
        sequence.num_admitted = 1
    assert len(limits._heap) < 200
    assert limits.take_due(1e7) == [last]
