"""run_until_stopped: waits for a signal or the engine's death; drain_server: finishes running requests."""

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from engine.errors import StartupError
from engine.wording import counted
from server.commands.lifespan.engines import Engines
from server.commands.serve.signals import Stop, unless

if TYPE_CHECKING:
    from server.context import ServerContext

logger = logging.getLogger(__name__)

_NOTICE_S = 5.0  # time in which new requests get 503, so that load balancers notice before connections are refused
_POLL_S = 0.05


async def run_until_stopped(
    stop_signal: Stop, engines: Engines, context: "ServerContext", drain: Callable[[], Awaitable[None]]
) -> None:
    """Wait for a signal, and drain after SIGTERM. Raises StartupError if the engine dies for good."""
    if (reason := await unless(stop_signal, engines.wait_dead())) is not None:
        context.history.note("gave_up", detail=reason)
        raise StartupError(reason)
    if stop_signal.result() is signal.SIGTERM:
        await drain()
    elif num_open := context.models.num_unfinished:
        logger.info("stopping: ending %s", counted(num_open, "request"))


async def drain_server(
    context: "ServerContext", num_answers: Callable[[], int], num_connections: Callable[[], int], timeout_s: float
) -> None:
    """Answer new requests with 503 until running ones finish, at most for `timeout_s`, but long enough for connected
    clients and load balancers to see the 503.

    num_answers: returns the number of incomplete HTTP responses, since clients may read more slowly than text is
    generated. Dashboard streams, which never end, are not waited for, nor are pulls, which the next server resumes.
    """

    def num_left() -> int:
        return max(
            context.models.num_unfinished, num_answers() - context.models.num_watchers - context.pulls.num_watchers
        )

    now_s = time.monotonic()
    context.drain.stop(now_s)
    assert context.drain.started_s is not None
    noticed_s = now_s
    if context.drain.is_watched(now_s) or num_connections():
        noticed_s = context.drain.started_s + _NOTICE_S  # an operator may have started it earlier
    end_s = now_s + timeout_s
    are_open = counted(context.models.num_unfinished, "request is open", "requests are open")
    notice = f"; clients and load balancers have {noticed_s - now_s:.0f} s to notice" if noticed_s > now_s else ""
    logger.info("draining: %s; the time limit is %g s%s", are_open, timeout_s, notice)
    while (now_s := time.monotonic()) < end_s:
        if now_s >= noticed_s and num_left() <= 0:
            return
        await asyncio.sleep(_POLL_S)
    if num_left() > 0:
        logger.warning("ending %s that did not finish within --shutdown-timeout", counted(num_left(), "request"))
