"""EngineFrame: sums over the steps since the previous frame."""

from engine.protocol import StepStats
from server.live.frames import Drafts, FrameBuilder


def test_drafts_are_counted_so_that_their_shares_can_be_told() -> None:
    frames = FrameBuilder(StepStats())
    frames.add(StepStats(num_drafts=2, draft_tokens=6, accepted_tokens=3, accepted_by_position=[2, 1, 0]))
    frames.add(StepStats(num_drafts=1, draft_tokens=1, accepted_tokens=1, accepted_by_position=[1]))
    assert frames.take().drafts == Drafts(num_drafts=3, drafted=7, accepted=4, accepted_by_position=[3, 1, 0])
    assert frames.take().drafts == Drafts()
