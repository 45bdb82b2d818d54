"""AdapterLoads: operators' pending requests to load an adapter, until the engine answers."""

import asyncio
import itertools
from collections.abc import Callable

from engine.errors import AdapterUnusable, EngineDied
from engine.protocol import AdapterInfo, AdapterLoaded, AdapterRefused, LoadAdapter


class AdapterLoads:
    """Pending requests to load an adapter, by number. If the engine ends, their callers get EngineDied; the requests
    are not sent to the next engine."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[AdapterInfo]] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def run(self, path: str, send: Callable[[LoadAdapter], None]) -> AdapterInfo:
        """Make the engine load an adapter; return its description. Raises AdapterUnusable if the engine refuses the
        adapter, and EngineDied if the engine ends first."""
        number = next(self._numbers)
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            send(LoadAdapter(number, path))
            return await answer
        finally:
            del self._open[number]

    def deliver(self, answer: AdapterLoaded | AdapterRefused) -> None:
        waiting = self._open.get(answer.number)
        if waiting is None or waiting.done():  # its caller was canceled
            return
        if isinstance(answer, AdapterLoaded):
            waiting.set_result(answer.info)
        else:
            waiting.set_exception(AdapterUnusable(answer.message))

    def fail_all(self, make_error: Callable[[], EngineDied]) -> None:
        for waiting in self._open.values():
            if not waiting.done():
                waiting.set_exception(make_error())
