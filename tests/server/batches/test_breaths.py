"""breathing: all items in order, and a rest after some milliseconds of work with them."""

import pytest

from server.batches.breaths import breathing

pytestmark = pytest.mark.fast


def test_work_that_takes_long_rests_in_between_and_short_work_does_not() -> None:
    now_s, rests = [0.0], []

    def sleep(seconds: float) -> None:
        rests.append(len(seen))
        assert seconds > 0

    seen: list[int] = []
    for item in breathing(range(10), clock=lambda: now_s[0], sleep=sleep):
        seen.append(item)
        now_s[0] += 0.0015
    assert seen == list(range(10))
    assert rests == [2, 4, 6, 8, 10]
    assert list(breathing(range(3), clock=lambda: 0.0, sleep=sleep)) == [0, 1, 2]
    assert len(rests) == 5
