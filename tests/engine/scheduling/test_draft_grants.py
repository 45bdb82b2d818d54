"""Blocks for drafts: those not needed for known tokens, and only as long as the drafts need them."""

from tests.helpers.engines import SchedulerRun, expected_ids, make_config, make_prompt, make_request


def test_a_draft_takes_no_block_that_another_sequence_needs() -> None:
    """Six blocks of four: with its drafts r0 could hold four of them when r1 needs its third."""
    run = SchedulerRun(make_config(num_blocks=6), lambda sequence: [1] * 7 if sequence.seed == 0 else [])
    requests = [
        make_request("r0", make_prompt(3), max_tokens=12, ignore_eos=True),
        make_request("r1", make_prompt(6, seed=1), max_tokens=4, seed=1, ignore_eos=True),
    ]
    transcript = run.run(requests)
    assert all(transcript.ids[r.id] == expected_ids(r) for r in requests)
    assert run.plans[1] == [("r0", 8, 7), ("r1", 1, 0)]
    assert run.plans[3] == [("r0", 7, 6), ("r1", 1, 0)]
    assert sum(s.preemptions for s in run.stats) == 0


def test_a_draft_takes_no_block_that_the_next_in_the_queue_needs() -> None:
    run = SchedulerRun(make_config(num_blocks=4))
    run.scheduler.add(make_request("a", make_prompt(3), max_tokens=12, ignore_eos=True))
    run.step()
    run.scheduler.add(make_request("b", make_prompt(8, seed=1), max_tokens=1))
    (sequence,) = run.scheduler.running
    assert run.scheduler.grant_drafts([(sequence, 9)]) == [4]  # four of these fit in two blocks
    run.scheduler.set_draft(sequence, [1] * 4)
    run.step()
    assert [id for id, _, _ in run.plans[-1]] == ["a", "b"]


def test_blocks_that_a_draft_does_not_need_are_freed_at_once() -> None:
    run = SchedulerRun(make_config(), lambda *_: [])
    run.scheduler.add(make_request("a", make_prompt(3), max_tokens=20, ignore_eos=True))
    run.step()
    (sequence,) = run.scheduler.running
    assert run.scheduler.grant_drafts([(sequence, 9)]) == [9]
    assert len(sequence.tables[0]) == 4
    run.scheduler.set_draft(sequence, [1, 2])
    assert len(sequence.tables[0]) == 2


def test_blocks_of_rejected_drafts_are_freed() -> None:
    run = SchedulerRun(make_config(), lambda *_: [])
    run.scheduler.add(make_request("a", make_prompt(3), max_tokens=20, ignore_eos=True))
    run.step()
    (sequence,) = run.scheduler.running
    assert run.scheduler.grant_drafts([(sequence, 9)]) == [9]
    run.scheduler.set_draft(sequence, [(expected_ids(sequence.request)[1] + 1) % 40] * 9)
    assert len(sequence.tables[0]) == 4
    run.step()
    assert run.plans[-1] == [("a", 10, 9)]
    assert len(sequence.tables[0]) == 1
