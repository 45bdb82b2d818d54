"""Scheduler: budgets, order, preemption, aborts, faults and intake."""

import pytest

from engine.config import SchedulingPolicy
from engine.errors import ContextLengthExceeded, InvalidRequest
from engine.grammar.sequence_grammar import SequenceGrammar
from engine.protocol import AbortReason, FinishReason, ServiceClass
from tests.helpers.engines import SchedulerRun, expected_ids, make_config, make_prompt, make_request
from tests.helpers.grammars import GRAMMARS
from tests.helpers.ledger import EOS_ID

pytestmark = pytest.mark.fast


def assert_at_rest(run: SchedulerRun) -> None:
    last = run.stats[-1]
    assert (last.running, last.waiting, last.blocks_used) == (0, 0, 0)
    assert not run.scheduler.has_work


# --- budgets --------------------------------------------------------------------------------------------------------


def test_a_step_stays_within_the_token_budget() -> None:
    run = SchedulerRun(make_config(max_num_batched_tokens=10))
    run.run([make_request(f"r{i}", make_prompt(13, seed=i)) for i in range(5)])
    assert max(sum(num_new for _, num_new, _ in plan) for plan in run.plans) == 10


def test_a_long_prompt_is_computed_in_chunks_beside_decoding() -> None:
    run = SchedulerRun(make_config(max_num_batched_tokens=8))
    run.scheduler.add(make_request("short", [1, 2], ignore_eos=True))
    run.step()
    run.scheduler.add(make_request("long", make_prompt(20), max_tokens=1))
    run.finish()
    assert run.plans[1:4] == [
        [("short", 1, 0), ("long", 7, 0)],
        [("short", 1, 0), ("long", 7, 0)],
        [("short", 1, 0), ("long", 6, 0)],
    ]


def test_long_prefill_threshold_leaves_budget_to_others() -> None:
    run = SchedulerRun(make_config(max_num_batched_tokens=16, long_prefill_token_threshold=4))
    run.run([make_request("a", make_prompt(10)), make_request("b", make_prompt(6, seed=1))])
    assert run.plans[0] == [("a", 4, 0), ("b", 4, 0)]
    assert run.plans[1] == [("a", 4, 0), ("b", 2, 0)]


def test_at_most_max_num_seqs_run() -> None:
    run = SchedulerRun(make_config(max_num_seqs=3))
    run.run([make_request(f"r{i}", make_prompt(5, seed=i)) for i in range(10)])
    assert max(s.running for s in run.stats) == 3
    assert_at_rest(run)


def test_a_prompt_is_not_started_while_its_blocks_are_reserved_for_others() -> None:
    """Two prompts of 5 blocks in 8 blocks: started together, one would be preempted half way."""
    run = SchedulerRun(make_config(num_blocks=8, max_num_batched_tokens=8, long_prefill_token_threshold=4))
    run.run(
        [make_request("a", make_prompt(20), max_tokens=1), make_request("b", make_prompt(20, seed=1), max_tokens=1)]
    )
    assert sum(s.preemptions for s in run.stats) == 0
    assert sum(s.prefill_tokens for s in run.stats) == 40


# --- order and preemption -------------------------------------------------------------------------------------------


def test_fcfs_serves_in_order_of_intake() -> None:
    run = SchedulerRun(make_config(max_num_seqs=1))
    run.run([make_request(f"r{i}", [i + 1], max_tokens=2, priority=-i) for i in range(5)])
    assert list(run.transcript.finish_reasons) == [f"r{i}" for i in range(5)]


def test_priority_serves_the_lowest_first_and_ties_by_arrival() -> None:
    run = SchedulerRun(make_config(max_num_seqs=1, scheduling_policy=SchedulingPolicy.PRIORITY))
    rows = [("d", 5, 1.0), ("c", 0, 2.0), ("b", 0, 1.0), ("a", -3, 9.0)]
    run.run([make_request(id, [1], max_tokens=2, priority=p, arrival_s=t) for id, p, t in rows])
    assert list(run.transcript.finish_reasons) == ["a", "b", "c", "d"]


def preempting_run(policy: SchedulingPolicy, priorities: list[int]) -> SchedulerRun:
    """Requests of 1 block that grow to 4 each, in 8 blocks."""
    run = SchedulerRun(make_config(num_blocks=8, scheduling_policy=policy))
    requests = [
        make_request(f"r{i}", make_prompt(3, seed=i), max_tokens=12, priority=p, ignore_eos=True)
        for i, p in enumerate(priorities)
    ]
    transcript = run.run(requests)
    assert all(transcript.ids[r.id] == expected_ids(r) for r in requests)
    assert sum(s.preemptions for s in run.stats) > 0
    assert_at_rest(run)
    return run


def first_victim(run: SchedulerRun) -> str:
    """The sequence that ran in the step before the first preemption and not in the step of it."""
    step = next(i for i, s in enumerate(run.stats) if s.preemptions)
    before, after = ({id for id, _, _ in run.plans[i]} for i in (step - 1, step))
    (victim,) = before - after
    return victim


def test_fcfs_preempts_the_last() -> None:
    run = preempting_run(SchedulingPolicy.FCFS, [0, 9, 3])
    assert first_victim(run) == "r2"
    assert next(iter(run.transcript.finish_reasons)) == "r0"


def test_priority_preempts_the_least_urgent() -> None:
    run = preempting_run(SchedulingPolicy.PRIORITY, [0, 9, 3])
    assert first_victim(run) == "r1"
    assert list(run.transcript.finish_reasons) == ["r0", "r2", "r1"]


def test_nothing_is_admitted_in_a_step_that_preempts() -> None:
    """The freed blocks of a victim are for those that run: a newcomer that would fit in them waits one step."""

    def start() -> SchedulerRun:
        run = SchedulerRun(make_config(num_blocks=8))
        for i in range(3):
            run.scheduler.add(make_request(f"r{i}", make_prompt(3, seed=i), max_tokens=12, ignore_eos=True))
        return run

    rehearsal = start()
    rehearsal.finish()
    num_steps_before = next(i for i, s in enumerate(rehearsal.stats) if s.preemptions)
    run = start()
    for _ in range(num_steps_before):
        run.step()
    run.scheduler.add(make_request("new", [1], max_tokens=1, service_class=ServiceClass.URGENT))
    run.step()
    run.step()
    assert run.stats[-2].preemptions == 1
    assert "new" not in [id for id, _, _ in run.plans[-2]]
    assert "new" in [id for id, _, _ in run.plans[-1]]


def test_sixteen_blocks_serve_thirty_two_requests_with_unchanged_outputs() -> None:
    requests = [make_request(f"r{i}", make_prompt(6, seed=i), max_tokens=14, ignore_eos=True) for i in range(32)]
    run = SchedulerRun(make_config(num_blocks=16))
    transcript = run.run(requests)
    assert all(transcript.ids[r.id] == expected_ids(r) for r in requests)
    assert set(transcript.finish_reasons.values()) == {FinishReason.LENGTH}
    assert sum(s.preemptions for s in run.stats) > 0
    assert_at_rest(run)


# --- aborts and faults ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "finish_reason"),
    [
        (AbortReason.CLIENT_GONE, FinishReason.ABORT),
        (AbortReason.SHUTDOWN, FinishReason.ABORT),
        (AbortReason.STOP_STRING, FinishReason.STOP),
    ],
)
def test_abort_ends_a_request_with_the_reason_it_means(reason: AbortReason, finish_reason: FinishReason) -> None:
    run = SchedulerRun(make_config())
    run.scheduler.add(make_request("a", make_prompt(6), ignore_eos=True))
    run.step()
    run.scheduler.abort("a", reason)
    run.step()
    assert run.transcript.finish_reasons == {"a": finish_reason}


def test_abort_frees_blocks_within_the_next_step_even_if_nothing_else_runs() -> None:
    run = SchedulerRun(make_config())
    run.scheduler.add(make_request("a", make_prompt(6), ignore_eos=True))
    run.step()
    assert run.stats[-1].blocks_used == 2
    run.scheduler.abort("a", AbortReason.CLIENT_GONE)
    assert run.scheduler.has_work
    run.step()
    assert run.plans[-1] == []
    assert_at_rest(run)


def test_abort_of_a_waiting_request_reports_no_queue_time() -> None:
    run = SchedulerRun(make_config(max_num_seqs=1))
    run.scheduler.add(make_request("a", [1], ignore_eos=True))
    run.scheduler.add(make_request("b", [2], ignore_eos=True))
    run.step()
    run.scheduler.abort("b", AbortReason.CLIENT_GONE)
    run.step()
    assert run.transcript.last["b"].queue_s is None
    assert run.stats[-1].waiting == 0


def test_abort_between_schedule_and_update_drops_the_steps_result() -> None:
    run = SchedulerRun(make_config())
    run.scheduler.add(make_request("a", make_prompt(6), ignore_eos=True))
    run.step(abort_meanwhile="a")
    assert run.transcript.ids == {"a": []}
    assert run.transcript.finish_reasons == {"a": FinishReason.ABORT}
    assert_at_rest(run)


def test_abort_of_unknown_and_finished_ids_is_ignored() -> None:
    run = SchedulerRun(make_config())
    run.scheduler.abort("never seen", AbortReason.CLIENT_GONE)
    run.run([make_request("a", [1])])
    run.scheduler.abort("a", AbortReason.CLIENT_GONE)
    assert not run.scheduler.has_work


def test_aborts_in_any_order_leave_the_others_untouched() -> None:
    requests = [make_request(f"r{i}", make_prompt(5, seed=i), ignore_eos=True) for i in range(6)]
    run = SchedulerRun(make_config(num_blocks=8, max_num_batched_tokens=9))
    for request in requests:
        run.scheduler.add(request)
    for id in ("r4", "r0", "r5", "r0"):
        run.step()
        run.scheduler.abort(id, AbortReason.CLIENT_GONE)
    transcript = run.finish()
    assert all(transcript.ids[r.id] == expected_ids(r) for r in (requests[i] for i in (1, 2, 3)))
    assert len(transcript.finish_reasons) == 6
    assert_at_rest(run)


def test_the_first_of_two_abort_reasons_counts() -> None:
    run = SchedulerRun(make_config())
    run.scheduler.add(make_request("a", [1]))
    run.scheduler.abort("a", AbortReason.STOP_STRING)
    run.scheduler.abort("a", AbortReason.CLIENT_GONE)
    run.step()
    assert run.transcript.finish_reasons["a"] is FinishReason.STOP


def test_a_row_error_ends_its_sequence_only() -> None:
    requests = [make_request(f"r{i}", make_prompt(5, seed=i)) for i in range(3)]
    run = SchedulerRun(make_config())
    run.runner.fail_ids.add("r1")
    transcript = run.run(requests)
    assert transcript.finish_reasons["r1"] is FinishReason.ERROR
    assert transcript.last["r1"].error == "made to fail"
    assert all(transcript.ids[r.id] == expected_ids(r) for r in (requests[0], requests[2]))
    assert_at_rest(run)


# --- intake ---------------------------------------------------------------------------------------------------------


def test_a_request_that_can_never_fit_is_refused_with_numbers_and_remedy() -> None:
    run = SchedulerRun(make_config(num_blocks=4))
    with pytest.raises(ContextLengthExceeded, match=r"has 10 tokens and max_tokens is 7; .* at most 16; shorten"):
        run.scheduler.add(make_request("a", make_prompt(10), max_tokens=7))
    assert not run.scheduler.has_work


def test_a_request_that_just_fits_the_pool_runs() -> None:
    request = make_request("a", make_prompt(10), max_tokens=6, ignore_eos=True)
    run = SchedulerRun(make_config(num_blocks=4))
    assert run.run([request]).ids["a"] == expected_ids(request)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="has no tokens"):
        SchedulerRun(make_config()).scheduler.add(make_request("a", []))


def test_unseeded_requests_draw_different_seeds_and_seeded_ones_keep_theirs() -> None:
    run = SchedulerRun(make_config())
    for id, seed in (("a", None), ("b", None), ("c", 0), ("d", -5)):
        run.scheduler.add(make_request(id, [1, 2], seed=seed))
    seeds = {item.sequence.id: item.sequence.seed for item in run.scheduler.schedule().items}
    assert seeds["a"] != seeds["b"]
    assert (seeds["c"], seeds["d"]) == (0, -5)


def test_a_grammar_refused_after_an_abort_ends_the_sequence_once() -> None:
    run = SchedulerRun(make_config())
    request = make_request("a", make_prompt(5), grammar=GRAMMARS[0])
    run.scheduler.add(request, SequenceGrammar(frozenset([EOS_ID]), appends_forced=True))
    run.scheduler.abort("a", AbortReason.CLIENT_GONE)
    run.scheduler.fail("a", "made to be refused", is_refused=True)
    run.step()
    assert run.transcript.finish_reasons == {"a": FinishReason.ERROR}


def test_progress_is_reported_to_whom_asks_after_each_chunk_of_the_prompt() -> None:
    run = SchedulerRun(make_config(max_num_batched_tokens=8))
    run.run(
        [
            make_request("asks", make_prompt(20), max_tokens=3, reports_progress=True, ignore_eos=True),
            make_request("does not", make_prompt(20, seed=1), max_tokens=3),
        ]
    )
    assert run.transcript.progress == {"asks": [8, 16, 20]}


def test_progress_counts_what_the_prefix_cache_had() -> None:
    run = SchedulerRun(make_config(max_num_batched_tokens=8))
    prompt = make_prompt(40)
    run.run([make_request("a", prompt[:20])])
    run.run([make_request("b", prompt, reports_progress=True, max_tokens=1, ignore_eos=True)])
    assert run.transcript.progress == {"b": [28, 36, 40]}
    assert run.transcript.last["b"].num_cached_tokens == 20


def test_progress_does_not_go_back_by_preemption() -> None:
    run = SchedulerRun(make_config(max_num_batched_tokens=8, max_num_seqs=1, enable_prefix_caching=False))
    run.add(
        make_request("a", make_prompt(20), max_tokens=1, reports_progress=True, service_class=ServiceClass.BACKGROUND)
    )
    run.step()
    run.step()
    run.add(make_request("b", make_prompt(5, seed=1), max_tokens=1))
    run.finish()
    assert run.transcript.progress == {"a": [8, 16, 16, 16, 20]}
