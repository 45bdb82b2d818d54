"""BatchJobs: the job kind for batches; chooses the batches to run, and limits the lines that run per model."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from server.batches.record import BATCHES, BatchRecord
from server.batches.slots import LineSlots
from server.batches.work import BatchWork
from server.jobs.environment import JobEnvironment
from server.jobs.kind import JobKind, JobWork
from server.schemas.batch_answers import BatchStatus

_MAX_RUNNING = 16  # batches that run at once, and as many that end; each holds a window of lines
_LINES_PER_SLOT = 3  # of an engine: lines that run, as many that wait in it, and as many that are prepared
_LINES_UNTIL_LOADED = 8


class BatchJobs(JobKind[BatchRecord]):
    table = BATCHES

    def __init__(self, env: JobEnvironment) -> None:
        super().__init__(env)
        self._slots: dict[str, LineSlots] = {}  # by the model's name

    def work(self, record: BatchRecord) -> BatchWork:
        return BatchWork(record, self.env, self._slots_of)

    async def select(
        self, waiting: Sequence[BatchRecord], works: Collection[JobWork[BatchRecord]]
    ) -> Iterable[JobWork[BatchRecord]]:
        """Select the batches to start: the next one of the owner with the fewest running, until the maximum run.

        An owner's first batch starts even above the maximum, since running batches may take long. Batches of owners
        without a valid key are skipped. Batches that are only being closed (canceled or expired) do not count as
        running.
        """
        now_s = self.env.files.clock()
        running = [work for work in works if isinstance(work, BatchWork)]
        ending = [each for each in waiting if each.status is BatchStatus.CANCELLING or each.is_late(now_s)]
        chosen = ending[: max(0, _MAX_RUNNING - sum(work.is_ending for work in running))]
        owners = {each.owner for each in waiting} | {work.owner for work in running}
        present = {owner for owner in owners if self.env.find_caller(owner) is not None}
        ids = {each.id for each in ending}
        left = [each for each in waiting if each.id not in ids and each.owner in present]
        counts = Counter(work.owner for work in running if work.owner in present and not work.is_ending)
        while left:
            record = min(left, key=lambda each: counts[each.owner])
            if counts.total() >= _MAX_RUNNING and counts[record.owner]:
                break
            left.remove(record)
            counts[record.owner] += 1
            chosen.append(record)
        return [self.work(record) for record in chosen]

    async def update(self, active: Sequence[BatchRecord], works: Collection[JobWork[BatchRecord]]) -> None:
        for name, slots in self._slots.items():
            slots.change_limit(self._limit(name))
        files, metrics = self.env.files, self.env.metrics
        metrics.set_each("batches", await files.database.run(BATCHES.by_status))
        num_running = sum(work.num_running for work in works if isinstance(work, BatchWork))
        num_left = sum(each.total - each.completed - each.failed for each in active)
        metrics.set("batch_lines_running", num_running)
        metrics.set("batch_lines_waiting", max(0, num_left - num_running))
        num_files, num_bytes = await files.totals()
        metrics.set("files", num_files)
        metrics.set("files_bytes", num_bytes)

    def unfinished_files(self, record: BatchRecord) -> list[str]:
        return record.unfinished_files

    @property
    def max_age_s(self) -> float:
        return self.env.context.config.storage.batch_max_age

    def _slots_of(self, model: str | None) -> LineSlots:
        name = self.env.models.get_or_default(model).name
        if name not in self._slots:
            self._slots[name] = LineSlots(self._limit(name))
        return self._slots[name]

    def _limit(self, name: str) -> int:
        model = self.env.models.get_or_default(name)
        if model.info is None:
            return _LINES_UNTIL_LOADED
        # A model that must make room for another one finishes the lines that have started.
        return model.info.max_num_seqs * (_LINES_PER_SLOT if model.loader is None else 1)
