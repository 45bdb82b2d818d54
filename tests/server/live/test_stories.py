"""A sequence's story: enough to explain its course, in bounded memory."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.client.interface import EngineEnd, RestartReason
from engine.protocol.sequence_events import (
    Admitted,
    Computed,
    Ended,
    Paused,
    Preempted,
    Queued,
    Resumed,
    SequenceEvent,
    WaitReason,
    Waits,
)
from server.live.stories import MAX_MOMENTS, Moment, MomentKind, SequenceStory

pytestmark = pytest.mark.fast


def test_moments_are_the_events_in_order() -> None:
    story = SequenceStory()
    for event in (
        Queued("a", 1.0, num_running=2, num_waiting=3, num_resumed=0),
        Waits("a", 1.5, WaitReason.SLOTS, is_shared=True),
        Admitted("a", 2.0, num_cached=16),
        Computed("a", 2.1, num_tokens=9, num_left=0),
    ):
        story.add(event, step_s=0.1)
    story.engine_ended(3.0, EngineEnd(RestartReason.CRASH, "the engine process ended with exit status 1"))
    story.add(Queued("a", 4.0, num_running=0, num_waiting=0, num_resumed=5), step_s=0.0)
    story.add(Preempted("a", 5.0, "memory", num_lost=30), step_s=0.1)
    assert not story.has_ended
    story.add(Ended("a", 6.0, "stop", num_decode_steps=7, num_drafted=4, num_accepted=3), step_s=0.1)
    assert story.has_ended
    assert story.moments == [
        Moment(what=MomentKind.QUEUED, at_s=1.0, num_running=2, num_waiting=3),
        Moment(what=MomentKind.WAITS, at_s=1.5, reason="places", is_shared=True),
        Moment(what=MomentKind.ADMITTED, at_s=2.0, num_tokens=16),
        Moment(what=MomentKind.COMPUTED, at_s=2.1, num_tokens=9, num_steps=1, step_s=0.1),
        Moment(
            what=MomentKind.ENGINE_ENDED, at_s=3.0, reason="crash", cause="the engine process ended with exit status 1"
        ),
        Moment(what=MomentKind.QUEUED, at_s=4.0, num_tokens=5),
        Moment(what=MomentKind.PREEMPTED, at_s=5.0, reason="memory", num_tokens=30),
        Moment(what=MomentKind.ENDED, at_s=6.0, reason="stop", num_steps=7, num_drafted=4, num_accepted=3),
    ]


def test_chunks_of_a_long_prompt_become_fewer_and_none_is_lost() -> None:
    story = SequenceStory()
    story.add(Admitted("a", 0.0, num_cached=0), step_s=0.0)
    for number in range(1, 1001):
        story.add(Computed("a", number / 10, num_tokens=5, num_left=5000 - 5 * number), step_s=0.1)
    chunks = story.moments[1:]
    assert 16 < len(chunks) <= MAX_MOMENTS
    assert sum(chunk.num_tokens for chunk in chunks) == 5000
    assert sum(chunk.num_steps for chunk in chunks) == 1000
    assert sum(chunk.step_s for chunk in chunks) == pytest.approx(100.0)
    assert chunks[-1].num_left == 0
    assert story.num_left_out == 0


def test_pauses_become_fewer_and_their_time_stays() -> None:
    story = SequenceStory()
    story.add(Computed("a", 0.5, num_tokens=5, num_left=0), step_s=0.1)
    for number in range(1, 101):
        story.add(Paused("a", float(number)), step_s=0.0)
        story.add(Resumed("a", number + 0.75), step_s=0.0)
    story.add(Paused("a", 200.0), step_s=0.0)
    assert len(story.moments) <= MAX_MOMENTS
    assert story.num_left_out == 0
    resumed = [each for each in story.moments if each.what is MomentKind.RESUMED]
    assert sum(each.num_steps for each in resumed) == 100
    assert sum(each.step_s for each in resumed) == pytest.approx(75.0)
    pauses = story.pauses()
    assert pauses[0][0] == 1.0
    assert pauses[-2:] == [(100.0, 100.75), (200.0, None)]
    assert story.prompt_end_s == 0.5


def test_a_preemption_or_an_end_of_the_engine_ends_a_pause() -> None:
    story = SequenceStory()
    story.add(Paused("a", 1.0), step_s=0.0)
    story.add(Preempted("a", 2.0, "memory", num_lost=1), step_s=0.0)
    story.add(Paused("a", 3.0), step_s=0.0)
    story.engine_ended(4.0, EngineEnd(RestartReason.HANG, "it hung"))
    assert story.pauses() == [(1.0, 2.0), (3.0, 4.0)]


def test_what_a_sequence_does_now_stays_known_when_moments_are_left_out() -> None:
    """The left-out moment may be the admission whose preemption stays."""
    story = SequenceStory()
    for number in range(31):
        story.add(Waits("a", number / 100, WaitReason.TOKENS, is_shared=False), step_s=0.0)
    story.add(Preempted("a", 1.0, "fairness", num_lost=1), step_s=0.0)
    story.add(Admitted("a", 2.0, num_cached=0), step_s=0.0)
    assert story.moments[MAX_MOMENTS // 2].what is MomentKind.ADMITTED
    story.add(Computed("a", 3.0, num_tokens=1, num_left=0), step_s=0.1)
    for number in range(MAX_MOMENTS):
        story.add(Waits("a", 4.0 + number, WaitReason.TOKENS, is_shared=False), step_s=0.0)
    kinds = {each.what for each in story.moments}
    assert (MomentKind.PREEMPTED in kinds, MomentKind.ADMITTED in kinds) == (True, False)
    assert (story.waits_again_s, story.admitted_s, story.prompt_end_s) == (None, 2.0, 3.0)
    story.add(Preempted("a", 90.0, "fairness", num_lost=1), step_s=0.0)
    story.add(Preempted("a", 91.0, "fairness", num_lost=1), step_s=0.0)
    assert story.waits_again_s == 90.0
    story.add(Ended("a", 92.0, "stop", num_decode_steps=0, num_drafted=0, num_accepted=0), step_s=0.0)
    assert story.waits_again_s is None


_events = st.one_of(
    st.just(Waits("a", 0.0, WaitReason.TOKENS, is_shared=False)),
    st.just(Admitted("a", 0.0, num_cached=0)),
    st.just(Preempted("a", 0.0, "fairness", num_lost=1)),
    st.just(Computed("a", 0.0, num_tokens=1, num_left=0)),
    st.just(Paused("a", 0.0)),
    st.just(Resumed("a", 0.0)),
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(_events, max_size=40), st.integers(1, 6))
def test_whatever_comes_there_are_few_moments_and_the_ends_are_kept(events: list[SequenceEvent], times: int) -> None:
    story = SequenceStory()
    first = Queued("a", 0.0, num_running=0, num_waiting=0, num_resumed=0)
    last = Ended("a", 9.0, "stop", num_decode_steps=0, num_drafted=0, num_accepted=0)
    taken = [first, *events * times, last]
    for event in taken:
        story.add(event, step_s=0.5)
        assert len(story.moments) <= MAX_MOMENTS
    assert story.moments[0].what is MomentKind.QUEUED
    assert story.moments[-1].what is MomentKind.ENDED
    merging = (MomentKind.COMPUTED, MomentKind.RESUMED)  # whose num_steps counts them; a pause has two moments
    steps = sum(moment.num_steps for moment in story.moments if moment.what in merging)
    others = sum(moment.what not in merging for moment in story.moments)
    assert steps + others + story.num_left_out <= len(taken)
    if len(taken) <= MAX_MOMENTS:
        assert steps + others == len(taken)
