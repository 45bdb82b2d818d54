"""The ends of sequences, and what the outputs and the statistics say."""

import pytest

from engine.client.output_stream import merge_outputs
from engine.protocol import FinishReason, RequestOutput
from engine.scheduling.plan import run_step
from engine.scheduling.sequence import Sequence
from tests.helpers.engines import SchedulerRun, expected_ids, half_right_draft, make_config, make_prompt, make_request
from tests.helpers.ledger import EOS_ID, next_token

pytestmark = pytest.mark.fast


def prompt_that_ends_after(num_tokens: int) -> list[int]:
    """A prompt whose output has EOS_ID as its `num_tokens`-th token and not before."""
    for seed in range(100_000):
        prompt = make_prompt(3, seed)
        if len(expected_ids(make_request("a", prompt, max_tokens=num_tokens + 1))) == num_tokens:
            return prompt
    raise AssertionError("no such prompt")


def test_eos_ends_a_sequence_and_is_its_last_id() -> None:
    run = SchedulerRun(make_config())
    run.run([make_request("a", prompt_that_ends_after(4), max_tokens=9)])
    assert run.transcript.finish_reasons["a"] is FinishReason.STOP
    assert run.transcript.last["a"].stop_token_id == EOS_ID
    assert len(run.transcript.ids["a"]) == 4
    assert run.transcript.ids["a"][-1] == EOS_ID


def test_ignore_eos_goes_on() -> None:
    run = SchedulerRun(make_config())
    run.run([make_request("a", prompt_that_ends_after(4), max_tokens=9, ignore_eos=True)])
    assert run.transcript.finish_reasons["a"] is FinishReason.LENGTH
    assert run.transcript.last["a"].stop_token_id is None
    assert len(run.transcript.ids["a"]) == 9


def test_stop_token_ids_end_a_sequence_even_with_ignore_eos() -> None:
    prompt = make_prompt(5)
    second = expected_ids(make_request("a", prompt, max_tokens=2, ignore_eos=True))[1]
    run = SchedulerRun(make_config())
    run.run([make_request("a", prompt, max_tokens=9, ignore_eos=True, stop_token_ids=(second,))])
    assert run.transcript.last["a"].stop_token_id == second
    assert run.transcript.ids["a"][-1] == second
    assert run.transcript.finish_reasons["a"] is FinishReason.STOP


@pytest.mark.parametrize(("min_tokens", "num_tokens"), [(3, 4), (4, 9)])
def test_no_stop_among_the_first_min_tokens(min_tokens: int, num_tokens: int) -> None:
    prompt = next(
        p
        for seed in range(100_000)
        if len(expected_ids(make_request("a", p := make_prompt(3, seed), max_tokens=9))) == 4
        and len(expected_ids(make_request("a", p, max_tokens=9, min_tokens=4))) == 9
    )
    run = SchedulerRun(make_config())
    run.run([make_request("a", prompt, max_tokens=9, min_tokens=min_tokens)])
    assert len(run.transcript.ids["a"]) == num_tokens


def test_max_tokens_ends_a_sequence_with_length() -> None:
    run = SchedulerRun(make_config())
    run.run([make_request("a", make_prompt(3), max_tokens=1, ignore_eos=True)])
    assert run.transcript.finish_reasons["a"] is FinishReason.LENGTH
    assert len(run.transcript.ids["a"]) == 1


def test_a_stop_token_at_max_tokens_is_a_stop() -> None:
    run = SchedulerRun(make_config())
    run.run([make_request("a", prompt_that_ends_after(4), max_tokens=4)])
    assert run.transcript.finish_reasons["a"] is FinishReason.STOP


@pytest.mark.parametrize("budget", [3, 64])
def test_no_tokens_wanted_ends_with_the_prompt(budget: int) -> None:
    run = SchedulerRun(make_config(max_num_batched_tokens=budget))
    run.run([make_request("a", make_prompt(8), max_tokens=0, prompt_logprobs=0)])
    output = run.transcript.last["a"]
    assert (output.new_ids, output.finish_reason) == ([], FinishReason.LENGTH)
    assert run.runner.num_tokens == 8
    assert output.prompt_logprobs is not None
    assert len(output.prompt_logprobs) == 8


def test_prompt_logprobs_come_once_and_whole_under_chunks_and_preemption() -> None:
    prompts = [make_prompt(9, seed=i) for i in range(4)]
    requests = [
        make_request(f"r{i}", prompt, max_tokens=10, ignore_eos=True, prompt_logprobs=0)
        for i, prompt in enumerate(prompts)
    ]
    run = SchedulerRun(make_config(num_blocks=10, max_num_batched_tokens=4))
    run.run(requests)
    assert sum(s.preemptions for s in run.stats) > 0
    for request, prompt in zip(requests, prompts, strict=True):
        entries = run.transcript.first[request.id].prompt_logprobs
        assert entries is not None
        assert entries[0] is None
        assert [(e.token_id, e.logprob) for e in entries[1:] if e] == [
            (prompt[i], -float(next_token(prompt[:i]))) for i in range(1, len(prompt))
        ]
        assert run.transcript.last[request.id].prompt_logprobs is None


def test_logprobs_are_cut_with_their_tokens() -> None:
    """A draft can bring tokens beyond the end of the sequence; they and their log probabilities are dropped."""
    prompt = prompt_that_ends_after(4)

    def perfect(sequence: Sequence) -> list[int]:
        draft: list[int] = []
        for _ in range(6):
            draft.append(next_token(sequence.tokens + draft, sequence.seed))
        return draft

    run = SchedulerRun(make_config(), perfect)
    run.run([make_request("a", prompt, max_tokens=20, logprobs=0)])
    assert len(run.transcript.ids["a"]) == 4
    last = run.transcript.last["a"]
    assert last.logprobs is not None
    assert [entry.token_id for entry in last.logprobs] == last.new_ids
    assert run.plans[1] == [("a", 7, 6)]


def test_a_draft_never_exceeds_what_max_tokens_leaves() -> None:
    run = SchedulerRun(make_config(num_blocks=2), lambda s: [next_token(s.tokens, s.seed)] * 9)
    request = make_request("a", make_prompt(3), max_tokens=5, ignore_eos=True)
    assert run.run([request]).ids["a"] == expected_ids(request)
    assert max(num_draft for plan in run.plans for _, _, num_draft in plan) == 3


def test_a_draft_gives_way_before_a_sequence_does() -> None:
    requests = [make_request(f"r{i}", make_prompt(3, seed=i), max_tokens=9, ignore_eos=True) for i in range(2)]
    run = SchedulerRun(make_config(num_blocks=6), lambda s: [(next_token(s.tokens, s.seed) + 1) % 40] * 8)
    transcript = run.run(requests)
    assert all(transcript.ids[r.id] == expected_ids(r) for r in requests)
    assert sum(s.preemptions for s in run.stats) == 0


def test_first_output_reports_queue_time_and_each_reports_cached_tokens() -> None:
    prompt = make_prompt(9)
    run = SchedulerRun(make_config())
    run.run([make_request("a", prompt, arrival_s=97.5)])
    run.run([make_request("b", prompt, max_tokens=3, ignore_eos=True, arrival_s=99.0)])
    assert run.transcript.first["a"].queue_s == 2.5  # the run's clock says 100
    assert run.transcript.first["b"].queue_s == 1.0
    assert run.transcript.last["b"].queue_s is None
    assert run.transcript.first["b"].num_cached_tokens == run.transcript.last["b"].num_cached_tokens == 8


def test_prefill_and_decode_tokens_add_up() -> None:
    run = SchedulerRun(make_config(max_num_batched_tokens=4))
    run.run([make_request("a", make_prompt(10), max_tokens=5, ignore_eos=True)])
    assert [(s.prefill_tokens, s.decode_tokens) for s in run.stats] == [(4, 0), (4, 0), (2, 0)] + [(0, 1)] * 4
    assert [s.pending_prompt_tokens for s in run.stats] == [5, 1, 0] + [0] * 4  # beside the last one


def test_recomputation_counts_as_prefill_and_is_counted_apart() -> None:
    requests = [make_request(f"r{i}", make_prompt(3, seed=i), max_tokens=12, ignore_eos=True) for i in range(3)]
    run = SchedulerRun(make_config(num_blocks=8, enable_prefix_caching=False))
    run.run(requests)
    recomputed = sum(s.recomputed_tokens for s in run.stats)
    assert recomputed > 0
    assert sum(s.prefill_tokens for s in run.stats) == 9 + recomputed
    assert sum(s.decode_tokens for s in run.stats) == 3 * 11


def test_prefix_counters_count_a_request_once() -> None:
    requests = [make_request(f"r{i}", make_prompt(9, seed=i), max_tokens=10, ignore_eos=True) for i in range(6)]
    run = SchedulerRun(make_config(num_blocks=10))
    run.run(requests)
    assert sum(s.preemptions for s in run.stats) > 0
    assert sum(s.prefix_queries for s in run.stats) == 6 * 9
    assert sum(s.prefix_hits for s in run.stats) == 0


def test_the_threshold_of_long_prompts_does_not_cut_drafts() -> None:
    run = SchedulerRun(make_config(long_prefill_token_threshold=2), lambda s: [next_token(s.tokens, s.seed)] * 5)
    run.run([make_request("a", make_prompt(4), max_tokens=20, ignore_eos=True)])
    assert run.plans[:3] == [[("a", 2, 0)], [("a", 2, 0)], [("a", 6, 5)]]


def test_drafts_shorten_a_run_and_change_no_output() -> None:
    requests = [make_request(f"r{i}", make_prompt(5, seed=i), max_tokens=30, ignore_eos=True) for i in range(8)]
    plain, drafted = (
        SchedulerRun(make_config(num_blocks=99)),
        SchedulerRun(make_config(num_blocks=99), half_right_draft),
    )
    assert plain.run(requests).ids == drafted.run(requests).ids
    assert len(drafted.plans) < len(plain.plans)


def test_outputs_report_when_a_sequence_had_its_first_token_lost_its_blocks_and_ended() -> None:
    run = SchedulerRun(make_config(num_blocks=8))
    requests = [make_request(f"r{i}", make_prompt(3, seed=i), max_tokens=12, ignore_eos=True) for i in range(3)]
    for request in requests:
        run.add(request)
    reported: dict[str, RequestOutput] = {}
    preempted_s = []
    while run.scheduler.has_work:
        run.now_s += 1.0
        plan = run.scheduler.schedule()
        outputs = run.scheduler.update(plan, run_step(run.runner, plan))
        preempted_s += [run.now_s] * run.scheduler.take_stats().preemptions
        for output in outputs:
            assert (output.ended_s is None) == (output.finish_reason is None)
            assert not output.preempted_s or output.finish_reason is None  # not kept until the end
            reported[output.id] = merge_outputs([reported[output.id], output]) if output.id in reported else output
    assert [reported[request.id].first_token_s for request in requests] == [101.0] * 3
    assert reported["r0"].ended_s == 112.0
    assert max(output.ended_s or 0.0 for output in reported.values()) == run.now_s
    assert preempted_s
    assert sorted(at_s for output in reported.values() for at_s in output.preempted_s) == preempted_s
    assert reported["r0"].preempted_s == []
