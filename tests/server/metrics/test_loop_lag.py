"""How late the event loop is, told after each timer."""

import asyncio

import pytest

from server.metrics.loop_lag import watch_loop
from tests.helpers.deadline import DEADLINE_S

pytestmark = pytest.mark.fast


async def test_each_timer_tells_by_how_much_it_was_late() -> None:
    times = iter([10.0, 10.75, 10.75, 10.5])  # before and after each timer; a clock may be coarser than the loop's
    lags: list[float] = []
    with pytest.raises(RuntimeError):  # the times are used up
        await asyncio.wait_for(watch_loop(lags.append, interval_s=0.0, clock=lambda: next(times)), DEADLINE_S)
    assert lags == [0.75, 0.0]
