"""Recurrent states in the scheduler: what a sequence holds, which checkpoints are left, what a hit needs."""

import pytest

from engine.scheduling.config import SchedulerConfig
from tests.helpers.engines import SchedulerRun, expected_ids, half_right_draft, make_config, make_prompt, make_request

pytestmark = pytest.mark.fast


def config(num_states: int, **changes: int | bool) -> SchedulerConfig:
    return make_config(num_blocks=400, num_states=num_states, **changes)


def cached_tokens(run: SchedulerRun, id: str, prompt: list[int]) -> int:
    return run.run([make_request(id, prompt, max_tokens=1)]).last[id].num_cached_tokens


@pytest.mark.parametrize("caching", [True, False])
def test_one_state_serves_a_sequence_of_any_length(caching: bool) -> None:
    run = SchedulerRun(config(1, enable_prefix_caching=caching, max_num_batched_tokens=7))
    request = make_request("a", make_prompt(50), max_tokens=100, ignore_eos=True)
    assert run.run([request]).ids == {"a": expected_ids(request)}


def test_drafts_need_no_second_state() -> None:
    run = SchedulerRun(config(1, max_num_batched_tokens=16), half_right_draft)
    request = make_request("a", make_prompt(50), max_tokens=100, ignore_eos=True)
    assert run.run([request]).ids == {"a": expected_ids(request)}
    num_drafted = sum(num_draft for plan in run.plans for _, _, num_draft in plan)
    num_accepted = 100 - (len(run.plans) - 3)  # of the prompt's four steps, the last gives a token
    assert 10 < num_accepted < num_drafted


def test_as_many_run_as_there_are_states_and_none_is_preempted_for_one() -> None:
    run = SchedulerRun(config(3))
    requests = [make_request(f"r{n}", make_prompt(9, seed=n), max_tokens=40, ignore_eos=True) for n in range(5)]
    transcript = run.run(requests)
    assert transcript.ids == {request.id: expected_ids(request) for request in requests}
    assert max(stats.running for stats in run.stats) == 3
    assert sum(stats.preemptions for stats in run.stats) == 0


def test_a_hit_starts_from_the_last_full_block_of_a_prompt() -> None:
    run = SchedulerRun(config(10))
    prompt = make_prompt(30)
    run.run([make_request("a", prompt, max_tokens=1)])
    assert cached_tokens(run, "b", [*prompt, 1, 2, 3]) == 28


def test_a_later_turn_starts_from_the_last_full_block_of_the_answer() -> None:
    run = SchedulerRun(config(10))
    request = make_request("a", make_prompt(30), max_tokens=50, ignore_eos=True)
    answer = run.run([request]).ids["a"]
    assert cached_tokens(run, "b", [*request.prompt_ids, *answer, 1]) == 76  # of 79 computed


def test_requests_with_one_new_prefix_cost_one_prefill_of_it() -> None:
    prefix = make_prompt(1000)
    requests = [make_request(f"r{i}", prefix + make_prompt(10, seed=i + 1)) for i in range(4)]
    run = SchedulerRun(make_config(num_blocks=256, block_size=16, max_num_batched_tokens=256, num_states=12))
    transcript = run.run(requests)
    shared = 62 * 16
    assert [transcript.last[r.id].num_cached_tokens for r in requests] == [0, shared, shared, shared]
    assert transcript.ids == {r.id: expected_ids(r) for r in requests}


def test_the_second_to_part_from_a_sequence_leaves_a_checkpoint_for_the_third() -> None:
    run = SchedulerRun(config(10))
    shared = make_prompt(24)
    tails = [make_prompt(20, seed=n + 1) for n in range(3)]
    found = [cached_tokens(run, f"r{n}", shared + tail) for n, tail in enumerate(tails)]
    assert found == [0, 0, 24]


def test_those_who_wait_for_keys_that_are_cached_and_a_state_that_is_not_share_one_prefill() -> None:
    run = SchedulerRun(config(10))
    shared = make_prompt(40)
    run.run([make_request("first", shared + make_prompt(20, seed=1), max_tokens=1)])
    requests = [make_request(f"r{n}", shared + make_prompt(5, seed=n + 2), max_tokens=1) for n in range(3)]
    transcript = run.run(requests)
    assert [transcript.last[r.id].num_cached_tokens for r in requests] == [0, 40, 40]


def test_a_long_sequence_does_not_evict_the_checkpoints_of_others() -> None:
    run = SchedulerRun(config(6))
    prompt = make_prompt(30)
    run.run([make_request("a", prompt, max_tokens=1)])
    run.run([make_request("b", make_prompt(10, seed=1), max_tokens=200, ignore_eos=True)])
    assert cached_tokens(run, "c", [*prompt, 1]) == 28


def test_a_preempted_sequence_goes_on_from_its_last_checkpoint() -> None:
    run = SchedulerRun(make_config(num_blocks=12, num_states=8, max_num_seqs=2))
    requests = [
        make_request(f"r{n}", make_prompt(9, seed=n), max_tokens=max_tokens, ignore_eos=True)
        for n, max_tokens in enumerate((20, 28))
    ]
    transcript = run.run(requests)
    assert transcript.ids == {request.id: expected_ids(request) for request in requests}
    assert sum(stats.preemptions for stats in run.stats) == 1
    assert 0 < sum(stats.recomputed_tokens for stats in run.stats) <= 4


def test_a_state_that_two_start_from_is_not_taken_away() -> None:
    run = SchedulerRun(config(2))
    prompt = make_prompt(12)
    run.run([make_request("a", prompt, max_tokens=1)])
    requests = [make_request(f"r{n}", [*prompt, n], max_tokens=9, ignore_eos=True) for n in range(2)]
    transcript = run.run(requests)
    assert transcript.ids == {"a": transcript.ids["a"]} | {r.id: expected_ids(r) for r in requests}
    assert transcript.last["r0"].num_cached_tokens == 12
