"""Progress: what a trainer tells in its file becomes events of the job, served checkpoints, and a forecast."""

import asyncio
import time
from collections import deque

import msgspec

from engine.command_io.finetuning.events import JobEvent
from engine.command_io.finetuning.job import JobFolder
from server.finetuning.jobs.journal import Journal
from server.finetuning.jobs.news import News, new_lines, news_of, size_of
from server.finetuning.jobs.record import FinetuneCheckpoint, FinetuneRecord, Resolved
from server.finetuning.jobs.surroundings import Surroundings
from server.finetuning.jobs.wording import for_clients
from server.schemas.finetune_answers import FinetuneError, FinetuneStatus

_WINDOW_STEPS = 20  # whose pace the forecast goes by
_FORECAST_S = 2.0  # between two that are stored without another reason


class Progress:
    """Of one job. What is in the job's record is not taken again."""

    def __init__(self, journal: Journal, folder: JobFolder, around: Surroundings) -> None:
        self.error: FinetuneError | None = None  # that the process of now has told
        self._journal = journal
        self._folder = folder
        self._around = around
        self._steps_s: deque[tuple[int, float]] = deque(maxlen=_WINDOW_STEPS + 1)  # step, and time.monotonic()
        self._forecast_s = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether the adapter is."""
        return self._journal.record.trained_tokens is not None

    async def begin(self) -> None:
        """A process is about to start."""
        self.error = None
        self._steps_s.clear()
        size = await asyncio.to_thread(size_of, self._folder.events)
        if size < self._journal.record.events_bytes:  # a loss of power has taken its end, and the process appends

            def edit(stored: FinetuneRecord) -> None:
                stored.events_bytes = size

            await self._journal.change(FinetuneStatus.RUNNING, edit)

    async def take(self) -> bool:
        """Take what is new, or a part of it; whether there may be more. Raises EngineStopped."""
        record = self._journal.record
        data = await asyncio.to_thread(new_lines, self._folder.events, record.events_bytes)
        if not data:
            await self._update_forecast()
            return False
        news = news_of(record, data)
        try:
            return await self._store(record, news)
        finally:
            stored = {each.step for each in self._journal.record.checkpoints}
            for checkpoint in news.checkpoints:  # one that is not stored is told of again by the next process
                if checkpoint.step not in stored:
                    self._around.publisher.withdraw(record, checkpoint.step)

    async def _store(self, record: FinetuneRecord, news: News) -> bool:
        """Serve its checkpoints, and store it all; False if a client has stopped the job."""
        told = [self._told(event) for event in news.kept]
        for checkpoint in news.checkpoints:
            told.append(await self._publish(record, checkpoint))
        self._note_steps(news.steps)
        estimated_s = self._estimated_finish()

        def edit(stored: FinetuneRecord) -> None:
            stored.events_bytes = news.size
            stored.step = max([stored.step, *(event.data["step"] for event in news.steps)])
            stored.checkpoints = [*stored.checkpoints, *news.checkpoints]
            stored.estimated_finish = estimated_s or stored.estimated_finish
            for event in news.events:
                _apply(stored, event)

        is_durable = len(news.kept) > len(news.steps)
        is_stored = await self._journal.change(FinetuneStatus.RUNNING, edit, told, is_durable=is_durable)
        if is_stored:
            self._around.metrics.add("finetune_steps_total", len(news.steps))
            self._around.metrics.add("finetune_tokens_total", sum(each.data.get("tokens", 0) for each in news.steps))
        return is_stored

    def _told(self, event: JobEvent) -> JobEvent:
        if "sample" in event.data:  # the model's words
            return event
        message = for_clients(event.message)
        if event.level == "error":
            self.error = FinetuneError(event.data.get("code", "training_failed"), message)
        return msgspec.structs.replace(event, message=message)

    async def _publish(self, record: FinetuneRecord, checkpoint: FinetuneCheckpoint) -> JobEvent:
        name = record.checkpoint_name(checkpoint.step)
        reason = await self._around.publisher.publish(record, checkpoint.step)
        if reason is None:
            return self._journal.event(f"Checkpoint created at step {checkpoint.step}: {name}", step=checkpoint.step)
        return self._journal.event(f"The checkpoint {name} is not served: {reason}", level="warn")

    # --- forecast -----------------------------------------------------------------------------------------------------

    def _note_steps(self, steps: list[JobEvent]) -> None:
        now_s = time.monotonic()
        for event in steps:
            self._steps_s.append((event.data["step"], now_s))

    def _estimated_finish(self) -> int | None:
        """Seconds since 1970, at the pace of the last steps, the time that they stood still for clients included; None
        before two are known."""
        resolved = self._journal.record.resolved
        if resolved is None or len(self._steps_s) < 2:
            return None
        (first, began_s), (last, _) = self._steps_s[0], self._steps_s[-1]
        if last == first:
            return None
        step_s = (time.monotonic() - began_s) / (last - first)
        return int(self._journal.now_s + step_s * (resolved.total_steps - last))

    async def _update_forecast(self) -> None:
        """Nothing is new: it will be later."""
        if time.monotonic() - self._forecast_s < _FORECAST_S or (estimated_s := self._estimated_finish()) is None:
            return
        self._forecast_s = time.monotonic()

        def edit(record: FinetuneRecord) -> None:
            record.estimated_finish = estimated_s

        await self._journal.change(FinetuneStatus.RUNNING, edit, is_durable=False)


def _apply(record: FinetuneRecord, event: JobEvent) -> None:
    """Note what an event tells of the whole job."""
    data = event.data
    if "n_epochs" in data and "total_steps" in data:
        record.resolved = Resolved(
            n_epochs=data["n_epochs"],
            batch_size=data["batch_size"],
            learning_rate=data["learning_rate"],
            lora_rank=data["lora_rank"],
            total_steps=data["total_steps"],
            beta=data.get("beta"),
        )
    if "trained_tokens" in data:
        record.trained_tokens = data["trained_tokens"]
