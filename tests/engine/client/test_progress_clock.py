"""The silence of an engine, as far as this process was there to hear it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.client.supervisor import ProgressClock

pytestmark = pytest.mark.fast


def test_silence_adds_up_until_there_is_progress() -> None:
    clock = ProgressClock(0.0, max_gap_s=2.0)
    assert [clock.silent_s(now) for now in (1.0, 2.0, 3.5)] == [1.0, 2.0, 3.5]
    clock.restart(4.0)
    assert clock.silent_s(5.0) == 1.0


def test_time_in_which_this_process_was_stopped_is_no_silence() -> None:
    clock = ProgressClock(0.0, max_gap_s=2.0)
    clock.silent_s(1.0)
    assert clock.silent_s(3601.0) == 3.0


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=50), st.floats(0.1, 10.0))
def test_it_never_tells_more_than_has_passed(gaps: list[float], max_gap_s: float) -> None:
    clock = ProgressClock(0.0, max_gap_s=max_gap_s)
    now = last = 0.0
    for gap in gaps:
        now += gap
        silent_s = clock.silent_s(now)
        assert last <= silent_s <= now + 1e-6
        assert silent_s <= last + max_gap_s + 1e-6
        last = silent_s
