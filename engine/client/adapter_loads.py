"""AdapterLoads: operators' requests to read an adapter, and who waits for the engine's answers."""

import asyncio
import itertools
from collections.abc import Callable

from engine.errors import AdapterUnusable, EngineDied
from engine.protocol import AdapterInfo, AdapterLoaded, AdapterRefused, LoadAdapter


class AdapterLoads:
    """One that the engine has not answered when it ends is not sent to the next engine: its operator is told."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[AdapterInfo]] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def run(self, path: str, send: Callable[[LoadAdapter], None]) -> AdapterInfo:
        """What the engine found. Raises AdapterUnusable with its reason, and EngineDied."""
        number = next(self._numbers)
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            send(LoadAdapter(number, path))
            return await answer
        finally:
            del self._open[number]

    def deliver(self, answer: AdapterLoaded | AdapterRefused) -> None:
        waiting = self._open.get(answer.number)
        if waiting is None or waiting.done():  # nobody waits for it any more
            return
        if isinstance(answer, AdapterLoaded):
            waiting.set_result(answer.info)
        else:
            waiting.set_exception(AdapterUnusable(answer.message))

    def fail_all(self, make_error: Callable[[], EngineDied]) -> None:
        """Raise an error to whoever waits."""
        for waiting in self._open.values():
            if not waiting.done():
                waiting.set_exception(make_error())
