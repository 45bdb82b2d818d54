"""Limits of the time in the queue: a sequence that has not started by then ends, and one that has started continues."""

import pytest

from engine.grammar.sequence_grammar import SequenceGrammar
from engine.protocol import FinishReason
from engine.scheduling.steps.tally import PreemptionReason
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


def test_a_started_sequence_continues_even_if_it_is_preempted() -> None:
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
