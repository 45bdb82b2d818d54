"""server_report: what an operator asks of the whole server: is it full, who uses it, and what happened."""

import asyncio
import importlib.metadata
import time
from collections import Counter
from itertools import chain

from server.context import ServerContext
from server.dashboard.fit import fit_of, pooling_fit_of
from server.dashboard.jobs import unfinished_jobs
from server.errors import StorageFailed
from server.live.history import MINUTE_S, NUM_MINUTES, NUM_TEN_MINUTES, TEN_MINUTES_S, key_of
from server.live.reports import ModelHealth, OpenUse, ServerReport, Stretch
from server.served.model import ServedModel


async def server_report(context: ServerContext, owner: str) -> ServerReport:
    """Return the report for an operator, who is `owner` of jobs. Lacks the jobs while the disk fails."""
    try:
        jobs = await unfinished_jobs(context, owner)
    except StorageFailed:  # logged; the rest is needed most then
        jobs = []
    machine = await asyncio.to_thread(context.machine.sample)
    now_s, history = time.time(), context.history
    fits = [fit_of(model, now_s * 1000) for model in context.models]
    pooling_fits = [pooling_fit_of(model, now_s * 1000) for model in context.models]
    return ServerReport(
        version=importlib.metadata.version("headrace"),
        started_at=context.created_s,
        now=now_s,
        has_keys=context.keys.ring.asks_for_keys,
        is_draining=context.drain.is_active,
        models=[_health(model) for model in context.models],
        machine=machine,
        hour=Stretch(MINUTE_S, NUM_MINUTES, history.hour()),
        day=Stretch(TEN_MINUTES_S, NUM_TEN_MINUTES, history.day()),
        happenings=[*reversed(history.happenings)],
        known_since=history.known_since_s,
        is_kept=context.config.data_dir is not None,
        failures=[*reversed(history.failures)],
        open=[OpenUse(key, is_batch, number) for (key, is_batch), number in _open(context).items()],
        jobs=jobs,
        fits=[each for each in fits if each is not None],
        pooling_fits=[each for each in pooling_fits if each is not None],
    )


def _open(context: ServerContext) -> Counter[tuple[str, bool]]:
    """Return the numbers of open requests of all models, by key and by whether they are lines of batches."""
    records = chain.from_iterable(model.live.requests.open_records() for model in context.models)
    return Counter((key_of(each), each.is_batch_line) for each in records)


def _health(model: ServedModel) -> ModelHealth:
    status, live = model.client.status(), model.live
    last, num_lines = live.last_step, live.requests.num_open_lines
    is_pooling = model.info is not None and model.info.pooling is not None
    return ModelHealth(
        name=model.name,
        state=status.state.value,
        reason=status.reason,
        num_restarts=status.num_restarts,
        batch_running=num_lines if is_pooling else last.running_batch,  # whose steps are short
        batch_paused=last.paused_batch,
        batch_tokens_per_s=live.pace.batch_tokens_per_s if last.running_batch else 0.0,
        texts_open=live.requests.num_open - num_lines if is_pooling else 0,
        texts_per_s=live.pace.texts_per_s,
    )
