"""EngineFrame: sums over the steps since the previous frame."""

from engine.protocol import StepStats
from server.live.frames import BatchLines, Drafts, FrameBuilder


def test_drafts_are_counted_so_that_their_shares_can_be_told() -> None:
    frames = FrameBuilder(StepStats())
    frames.add(StepStats(num_drafts=2, draft_tokens=6, accepted_tokens=3, accepted_by_position=[2, 1, 0]))
    frames.add(StepStats(num_drafts=1, draft_tokens=1, accepted_tokens=1, accepted_by_position=[1]))
    assert frames.take().drafts == Drafts(num_drafts=3, drafted=7, accepted=4, accepted_by_position=[3, 1, 0])
    assert frames.take().drafts == Drafts()


def test_tokens_of_batches_count_and_their_lines_are_apart() -> None:
    frames = FrameBuilder(StepStats())
    frames.add(StepStats(decode_tokens=2, running=2, paused_batch=3))
    frames.add(StepStats(batch_prefill_tokens=40, batch_decode_tokens=3, running_batch=4, waiting_batch=1, step_s=0.01))
    frame = frames.take()
    assert (frame.prefill_tokens, frame.decode_tokens, frame.running) == (40, 5, 0)
    assert frame.batch == BatchLines(running=4, paused=0, waiting=1)
    assert [(step.prefill_tokens, step.decode_tokens) for step in frame.steps] == [(0, 2), (40, 3)]
