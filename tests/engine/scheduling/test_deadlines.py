"""Deadlines: sequences end at theirs, wherever they stand, and at no other time."""

import pytest

from engine.grammar.sequence_grammar import SequenceGrammar
from engine.protocol import AbortReason, FinishReason
from engine.scheduling.plan import run_step
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
    outputs = run.scheduler.update(plan, run_step(run.runner, plan))
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
