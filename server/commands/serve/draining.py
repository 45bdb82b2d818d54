"""drain_server: what runs finishes before the process ends, and load balancers have time to notice."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.wording import counted

if TYPE_CHECKING:
    from server.context import ServerContext

logger = logging.getLogger(__name__)

_NOTICE_S = 5.0  # go on answering (503) for so long, so that load balancers notice before connections are refused
_POLL_S = 0.05


async def drain_server(
    context: "ServerContext", num_answers: Callable[[], int], num_connections: Callable[[], int], timeout_s: float
) -> None:
    """Answer new requests with 503 while what runs finishes, for at most `timeout_s`, and while those who may send some
    notice: whoever asks whether the server is ready, or has a connection.

    num_answers: how many HTTP requests are not answered to their end; a client may read slower than its text comes.
    Those who watch the engine have answers without an end, which are not waited for.
    """

    def num_left() -> int:
        return max(context.models.num_unfinished, num_answers() - context.models.num_watchers)

    now_s = time.monotonic()
    context.drain.stop(now_s)
    assert context.drain.started_s is not None
    noticed_s = now_s
    if context.drain.is_watched(now_s) or num_connections():
        noticed_s = context.drain.started_s + _NOTICE_S  # an operator may have begun it earlier
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
