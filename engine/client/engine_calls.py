"""EngineCalls: operators' calls to the engine, such as to load an adapter, until the engine answers."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

from engine.errors import EngineDied, HeadraceError
from engine.protocol import ToEngine

Answer = TypeVar("Answer")


class EngineCalls(Generic[Answer]):
    """Pending calls of one kind, by number. If the engine ends, their callers get EngineDied; the calls are not sent to
    the next engine."""

    def __init__(self, send: Callable[[ToEngine], None]) -> None:
        self._send = send
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[Answer]] = {}

    async def run(self, message: Callable[[int], ToEngine]) -> Answer:
        """Send the message with the call's number, and return the engine's answer. Raises the error with which the
        engine refuses the call, and EngineDied if the engine ends first."""
        number = next(self._numbers)
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(message(number))
            return await answer
        finally:
            del self._open[number]

    def deliver(self, number: int, answer: Answer | HeadraceError) -> None:
        """End a call with its answer, or the error that refuses it."""
        waiting = self._open.get(number)
        if waiting is None or waiting.done():  # its caller was canceled
            return
        if isinstance(answer, HeadraceError):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    def fail_all(self, make_error: Callable[[], EngineDied]) -> None:
        for waiting in self._open.values():
            if not waiting.done():
                waiting.set_exception(make_error())
