"""Prefix cache in the scheduler: hits, sharing of a prefix that is just being computed, isolation, eviction."""

import pytest

from engine.protocol import AbortReason, FinishReason
from tests.helpers.engines import SchedulerRun, expected_ids, make_config, make_prompt, make_request

pytestmark = pytest.mark.fast


def planned(run: SchedulerRun) -> list[list[str]]:
    return [[id for id, _, _ in plan] for plan in run.plans]


def test_four_requests_with_one_new_prefix_cost_one_prefill_of_it() -> None:
    prefix = make_prompt(1000)
    requests = [make_request(f"r{i}", prefix + make_prompt(10, seed=i + 1)) for i in range(4)]
    run = SchedulerRun(make_config(num_blocks=256, block_size=16, max_num_batched_tokens=256))
    transcript = run.run(requests)
    # 1,000 = 62 blocks and 8 tokens, and the tails are each request's own.
    shared = 62 * 16
    assert sum(s.prefill_tokens for s in run.stats) == shared + 4 * (1010 - shared)
    assert sum(s.prefix_hits for s in run.stats) == 3 * shared
    assert sum(s.prefix_queries for s in run.stats) == 4 * 1010
    assert [transcript.last[r.id].num_cached_tokens for r in requests] == [0, shared, shared, shared]
    assert all(transcript.ids[r.id] == expected_ids(r) for r in requests)


def test_waiting_for_a_shared_block_lets_others_pass_and_ends_with_the_block() -> None:
    prefix = make_prompt(16)
    run = SchedulerRun(make_config(max_num_batched_tokens=8))
    run.scheduler.add(make_request("owner", [*prefix, 1, 2], max_tokens=4, ignore_eos=True))
    run.step()
    run.scheduler.add(make_request("sharer", [*prefix, 3, 4], max_tokens=4, ignore_eos=True))
    run.scheduler.add(make_request("other", make_prompt(6, seed=5), max_tokens=4, ignore_eos=True))
    run.step()  # tokens 8-16 of owner fill the budget
    run.step()  # the prefix is computed: the sharer starts from it, before the other
    assert planned(run) == [["owner"], ["owner"], ["owner", "sharer", "other"]]
    assert run.plans[2][1] == ("sharer", 2, 0)
    run.finish()


def test_a_passed_sequence_is_next_when_the_block_is_there() -> None:
    prefix = make_prompt(32)
    run = SchedulerRun(make_config(max_num_batched_tokens=16, long_prefill_token_threshold=8))
    run.scheduler.add(make_request("owner", [*prefix, 1], max_tokens=1))
    run.scheduler.add(make_request("sharer", [*prefix, 2], max_tokens=1))
    others = [make_request(f"o{i}", make_prompt(8, seed=i + 1), max_tokens=1) for i in range(12)]
    for request in others:
        run.scheduler.add(request)
    run.finish()
    # The owner takes 8 tokens a step and the others pass with the rest, until the prefix of 32 is computed.
    assert planned(run)[:4] == [["owner", "o0"], ["owner", "o1"], ["owner", "o2"], ["owner", "o3"]]
    assert planned(run)[4][:2] == ["owner", "sharer"]


@pytest.mark.parametrize("end", ["abort", "finish", "fail"])
def test_the_waiting_goes_on_when_the_owner_is_gone(end: str) -> None:
    prefix = make_prompt(32)
    run = SchedulerRun(make_config(max_num_batched_tokens=8))
    sharer = make_request("sharer", [*prefix, 2], max_tokens=4)
    run.scheduler.add(make_request("owner", [*prefix, 1], max_tokens=1 if end != "finish" else 0))
    run.scheduler.add(sharer)
    run.step()
    if end == "abort":
        run.scheduler.abort("owner", AbortReason.CLIENT_GONE)
    elif end == "fail":
        run.runner.fail_ids.add("owner")
    transcript = run.finish(max_steps=20)
    assert transcript.ids["sharer"] == expected_ids(sharer)


def test_the_waiting_goes_on_when_the_owner_is_preempted() -> None:
    run = SchedulerRun(make_config(num_blocks=6, max_num_batched_tokens=8, max_num_seqs=3))
    prefix = make_prompt(12)
    first = make_request("first", make_prompt(3, seed=9), max_tokens=17, ignore_eos=True)
    owner = make_request("owner", [*prefix, 1], max_tokens=6, ignore_eos=True)
    sharer = make_request("sharer", [*prefix, 2], max_tokens=6, ignore_eos=True)
    transcript = run.run([first, owner, sharer])
    assert sum(s.preemptions for s in run.stats) > 0
    assert all(transcript.ids[r.id] == expected_ids(r) for r in (first, owner, sharer))


def test_requests_of_another_salt_share_nothing() -> None:
    prompt = make_prompt(20)
    run = SchedulerRun(make_config())
    transcript = run.run([make_request("a", prompt, cache_salt="a"), make_request("b", prompt, cache_salt="b")])
    assert planned(run)[0] == ["a", "b"]
    assert transcript.last["b"].num_cached_tokens == 0


def test_the_last_prompt_token_is_always_computed() -> None:
    prompt = make_prompt(16)
    run = SchedulerRun(make_config())
    run.run([make_request("a", prompt)])
    transcript = run.run([make_request("b", prompt)])
    assert transcript.last["b"].num_cached_tokens == 12
    assert transcript.ids["a"] == transcript.ids["b"]


def test_a_later_turn_finds_the_prompt_and_the_answer() -> None:
    request = make_request("a", make_prompt(10), max_tokens=11, ignore_eos=True)
    run = SchedulerRun(make_config())
    answer = run.run([request]).ids["a"]
    run.run([make_request("b", request.prompt_ids + answer + [5, 6])])
    assert run.transcript.last["b"].num_cached_tokens == 20  # of 21; the last token of an answer is never computed


def test_prompt_logprobs_compute_the_whole_prompt_and_still_fill_the_cache() -> None:
    prompt = make_prompt(20)
    run = SchedulerRun(make_config(max_num_batched_tokens=7))
    run.run([make_request("a", prompt)])
    run.run([make_request("b", prompt, prompt_logprobs=0)])
    assert run.transcript.last["b"].num_cached_tokens == 0
    assert sum(s.prefix_queries for s in run.stats) == 20  # only a's
    other = SchedulerRun(make_config())
    other.run([make_request("b", prompt, prompt_logprobs=0)])
    other.run([make_request("a", prompt)])
    assert other.transcript.last["a"].num_cached_tokens == 16


def test_without_prefix_caching_nothing_is_shared_and_nobody_waits() -> None:
    prompt = make_prompt(20)
    run = SchedulerRun(make_config(enable_prefix_caching=False))
    transcript = run.run([make_request("a", prompt), make_request("b", prompt)])
    assert planned(run)[0] == ["a", "b"]
    assert sum(s.prefix_queries for s in run.stats) == 0
    assert run.stats[-1].blocks_cached == 0
    assert transcript.ids["a"] == transcript.ids["b"]


def test_an_error_takes_the_blocks_of_its_sequence_out_of_the_cache() -> None:
    prompt = make_prompt(20)
    run = SchedulerRun(make_config(max_num_batched_tokens=8))
    run.scheduler.add(make_request("broken", prompt))
    run.step()
    run.runner.fail_ids.add("broken")
    run.finish()
    assert run.transcript.finish_reasons["broken"] is FinishReason.ERROR
    run.run([make_request("next", prompt)])
    assert run.transcript.last["next"].num_cached_tokens == 0


def test_prefixes_that_give_way_are_reported_with_their_age() -> None:
    run = SchedulerRun(make_config(num_blocks=4, max_num_seqs=1))
    run.run([make_request("old", make_prompt(11, 1), max_tokens=1, ignore_eos=True)])  # leaves two full blocks cached
    run.run([make_request("new", make_prompt(15, 2), max_tokens=1, ignore_eos=True)])
    evicted = [count for stats in run.stats for _, count in stats.evicted_blocks]
    assert sum(evicted) == 2
    assert all(idle_s >= 0 for stats in run.stats for idle_s, _ in stats.evicted_blocks)
