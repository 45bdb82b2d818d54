"""LoopClock: the event loop's clock, put ahead by a test, so that limits of minutes are over at once."""

import asyncio


class LoopClock:
    """Of the running loop, for the rest of its life: what it calls later comes due as the clock is put ahead.

    A deadline of the test itself that is running then comes nearer, too.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self._ahead_s = 0.0
        loop.time = self._now  # type: ignore[method-assign]

    def put_ahead(self, seconds: float) -> None:
        self._ahead_s += seconds

    def _now(self) -> float:
        return self._time() + self._ahead_s
