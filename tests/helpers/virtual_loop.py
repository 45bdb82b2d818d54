"""VirtualLoop: an event loop on a clock of its own, on which the same calls happen in the same order each time."""

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

_THREAD_S = 0.001  # that the work of a thread takes


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its clock stands still while anything is to be done, and then goes to what is due next. The work of threads is
    done when it is asked for; whoever waits hears of it a moment later, so that it may be canceled meanwhile, as the
    work of a real thread may."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._thread = ThreadPoolExecutor(max_workers=1)
        super().__init__(_NoWaiting(self._go_on))

    def time(self) -> float:
        return self._now_s

    def _go_on(self, seconds: float) -> None:
        self._now_s += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        future = self.create_future()
        work = (executor or self._thread).submit(func, *args)
        if (error := work.exception()) is not None:
            self.call_later(_THREAD_S, _set, future, future.set_exception, error)
        else:
            self.call_later(_THREAD_S, _set, future, future.set_result, work.result())
        return future

    def close(self) -> None:
        self._thread.shutdown()
        super().close()


class _NoWaiting(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    def __init__(self, go_on: Callable[[float], None]) -> None:
        super().__init__()
        self._go_on = go_on

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everything waits, and nothing is due"
        self._go_on(max(0.0, timeout))
        return super().select(0)


def _set(future: "asyncio.Future[Any]", how: Callable[[Any], None], value: Any) -> None:
    if not future.done():
        how(value)
