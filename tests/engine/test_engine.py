"""Engine and LocalClient: refusals, release, and steps that only report."""

from itertools import pairwise

import pytest

from engine.protocol import AbortReason, FinishReason
from tests.helpers.engines import expected_ids, make_engine, make_prompt, make_request
from tests.helpers.local_client import LocalClient

pytestmark = pytest.mark.fast


def test_generate_returns_each_output_merged() -> None:
    engine, _ = make_engine()
    requests = [make_request(f"r{i}", make_prompt(5 + i, seed=i), max_tokens=9, logprobs=0) for i in range(5)]
    outputs = LocalClient(engine).generate(requests)
    for request in requests:
        output = outputs[request.id]
        assert output.new_ids == expected_ids(request)
        assert output.finish_reason is not None
        assert output.logprobs is not None
        assert [entry.token_id for entry in output.logprobs] == output.new_ids


def test_requests_are_reported_before_the_first_step_that_computes_them() -> None:
    reported: list[list[str]] = []
    engine, runner = make_engine(max_num_seqs=1, max_num_batched_tokens=4, on_started=reported.append)
    for id in ("a", "b"):
        engine.add(make_request(id, make_prompt(10, seed=ord(id)), max_tokens=2))
    engine.step()
    assert reported == [["a"]]
    assert runner.num_tokens == 4
    while engine.has_work:
        engine.step()
    assert reported == [["a"], ["b"]]


def test_a_request_that_cannot_fit_ends_with_an_error_output() -> None:
    engine, runner = make_engine(num_blocks=4)
    engine.add(make_request("big", make_prompt(99)))
    assert engine.has_work
    step = engine.step()
    (output,) = step.outputs
    assert (output.id, output.finish_reason) == ("big", FinishReason.ERROR)
    assert output.error is not None
    assert "99 tokens" in output.error
    assert not engine.has_work
    assert runner.num_tokens == 0


def test_finished_sequences_are_released_however_they_end() -> None:
    engine, runner = make_engine(max_num_seqs=2)
    runner.fail_ids.add("fails")
    for id in ("fails", "ends", "leaves"):
        engine.add(make_request(id, [1, 2, 3]))
    engine.abort("leaves", AbortReason.CLIENT_GONE)
    while engine.has_work:
        engine.step()
    assert sorted(runner.released) == ["ends", "fails", "leaves"]


def test_a_step_with_nothing_to_compute_reports_aborts_and_takes_no_time() -> None:
    engine, runner = make_engine()
    engine.add(make_request("a", make_prompt(6), ignore_eos=True))
    engine.step()
    engine.abort("a", AbortReason.CLIENT_GONE)
    num_tokens = runner.num_tokens
    step = engine.step()
    assert [output.finish_reason for output in step.outputs] == [FinishReason.ABORT]
    assert (step.stats.running, step.stats.waiting, step.stats.blocks_used, step.stats.step_s) == (0, 0, 0, 0.0)
    assert runner.num_tokens == num_tokens
    assert not engine.has_work


def test_statistics_of_a_run_add_up() -> None:
    engine, runner = make_engine(max_num_batched_tokens=7)
    client = LocalClient(engine)
    outputs = client.generate(make_request(f"r{i}", make_prompt(5, seed=i)) for i in range(9))
    assert len(outputs) == 9
    assert sum(s.prefill_tokens + s.decode_tokens for s in client.steps) == runner.num_tokens
    assert all(s.blocks_total == 64 for s in client.steps)
    assert all(s.step_s > 0 for s in client.steps)
    assert all(later.waiting <= earlier.waiting for earlier, later in pairwise(client.steps))


def test_the_phases_of_a_step_are_its_length() -> None:
    engine, _ = make_engine()
    engine.send_s = 0.25
    engine.add(make_request("a", make_prompt(6), ignore_eos=True))
    stats = engine.step().stats
    phases = (stats.draft_s, stats.schedule_s, stats.forward_s, stats.sample_s, stats.update_s)
    assert sum(phases) == pytest.approx(stats.step_s, abs=1e-9)
    assert stats.send_s == 0.25
    assert min(phases) >= 0


def test_steps_are_predicted_once_one_has_generated() -> None:
    engine, _ = make_engine()
    engine.add(make_request("a", make_prompt(6), max_tokens=4, ignore_eos=True))
    stats = [engine.step().stats for _ in range(4)]
    assert [each.predicted_s > 0 for each in stats] == [False, False, True, True]
    assert [0 < each.measured_s < each.step_s for each in stats] == [False, False, True, True]
