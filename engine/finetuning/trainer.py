"""Trainer: the loop over steps and epochs, with validation, checkpoints and events."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.command_io.finetuning.auto import ResolvedHyperparameters
from engine.command_io.finetuning.events import JobEventLog
from engine.command_io.finetuning.job import JobFolder
from engine.command_io.finetuning.plot import write_training_plot
from engine.command_io.finetuning.results import Curve, write_result_rows
from engine.finetuning.order import learning_rate
from engine.finetuning.state import Measurements, TrainingState
from engine.finetuning.task import TrainingTask
from engine.finetuning.verdict import (
    before_and_after,
    in_words,
    means,
    measured_values,
    stopped_early,
    validated,
    warnings,
)
from models.progress import ProgressReport

_SAVE_INTERVAL_S = 30.0


@dataclass(frozen=True, slots=True)
class Outputs:
    """The destinations of a training job's results. curve: the columns of the results. save_adapter: writes the current
    adapter to a folder. sample: answers the sample prompts at a checkpoint and logs the answers as events."""

    folder: JobFolder
    events: JobEventLog
    progress: ProgressReport
    curve: Curve
    save_adapter: Callable[[Path], None]
    sample: Callable[[int], None]


class Trainer:
    """The training loop of one job."""

    def __init__(
        self, task: TrainingTask, resolved: ResolvedHyperparameters, state: TrainingState, outputs: Outputs
    ) -> None:
        """state: a new state, or the saved state of an interrupted run."""
        self._task = task
        self._resolved = resolved
        self._state = state
        self._outputs = outputs
        self._saved_s = time.monotonic()

    def run(self) -> None:
        """Train from the current state to the end, saving the state on the way. Raises OSError."""
        progress = self._state.progress
        if progress.before is None:
            progress.before = self._task.measure()
        total = self._resolved.num_steps
        while progress.step < total and not self._is_over():
            found = self._step(progress.step)
            self._outputs.progress("train", progress.step, total, "steps")
            if self._makes_checkpoint(progress.step):
                assert found is not None
                self._make_checkpoint(found)
            elif time.monotonic() - self._saved_s > _SAVE_INTERVAL_S:
                self._save()
        self._finish()

    def _step(self, step: int) -> Measurements | None:
        """Run one training step; return the measurements if an evaluation was due after it."""
        given = self._resolved.given
        began_s = time.monotonic()
        try:
            outcome = self._task.compute(step)
        except SystemExit:  # from SIGTERM, which mostly comes here; this step has not changed anything yet
            self._save()
            raise
        progress = self._state.progress
        is_last = step + 1 == self._resolved.num_steps
        # Before the update, so that a job that fails here computes this step again when it is run again.
        conclusion = self._task.conclude([*progress.results, outcome.result]) if is_last else None
        rate = learning_rate(
            self._resolved.learning_rate, step, self._resolved.num_steps, given.warmup_ratio, given.schedule
        )
        norm = self._state.update(rate, given.max_grad_norm)
        progress.step = step + 1
        updated_s = time.monotonic()
        found = self._task.measure() if self._measures_after(progress.step) else None
        progress.results.append(outcome.result if found is None else validated(outcome.result, found))
        self._outputs.events.add(
            f"Step {step + 1}/{self._resolved.num_steps}: {outcome.summary}",
            kind="metrics",
            step=step + 1,
            total_steps=self._resolved.num_steps,
            data={**outcome.data, **({} if found is None else measured_values(found))},
            learning_rate=rate,
            gradient_norm=norm,
            step_s=updated_s - began_s,
        )
        for warning in (*outcome.warnings, *([] if conclusion is None else [conclusion])):
            self._outputs.events.add(warning, level="warn")
        if found is not None:
            self._compare(found)
        return found

    def _makes_checkpoint(self, step: int) -> bool:
        """Return whether a step ends an epoch after which a checkpoint is made."""
        interval = self._resolved.checkpoint_epochs * self._task.steps_per_epoch
        return step % interval == 0 or step == self._resolved.num_steps

    def _measures_after(self, step: int) -> bool:
        given = self._resolved.given
        if given.early_stopping is not None and step % self._task.steps_per_epoch == 0:
            return True
        return self._makes_checkpoint(step) or (given.eval_interval is not None and step % given.eval_interval == 0)

    def _compare(self, found: Measurements) -> None:
        """Compare measurements with earlier ones: log warnings, and keep the weights if they are the best so far."""
        progress = self._state.progress
        for warning in warnings(progress, found):
            self._outputs.events.add(warning, level="warn")
        if progress.is_best(found):
            progress.set_best(found)
            self._state.keep_best()
        progress.after = found

    def _make_checkpoint(self, found: Measurements) -> None:
        """Save the adapter at the end of an epoch, and log the epoch's figures and some answers."""
        progress, outputs = self._state.progress, self._outputs
        epoch = -(-progress.step // self._task.steps_per_epoch)
        shown = {**means(progress.results[-self._task.steps_per_epoch :]), **measured_values(found)}
        folder = outputs.folder.out / "checkpoints" / f"step-{progress.step}"
        outputs.save_adapter(folder)
        outputs.events.add(
            f"Epoch {epoch} of {self._resolved.n_epochs}: {in_words(shown)}",
            checkpoint=str(folder),
            data={"epoch": epoch, "step": progress.step, **shown},
        )
        outputs.sample(epoch)
        self._save()
        write_training_plot(outputs.folder.plot(outputs.curve.name), progress.results, outputs.curve)

    def _is_over(self) -> bool:
        """Return whether to stop early: validation has not improved for `early_stopping` epochs."""
        progress, patience = self._state.progress, self._resolved.given.early_stopping
        if patience is None or progress.best_step is None:
            return False
        return progress.step - progress.best_step >= patience * self._task.steps_per_epoch

    def _finish(self) -> None:
        progress = self._state.progress
        if progress.step < self._resolved.num_steps:  # it stops early
            conclusion = self._task.conclude(progress.results)
            if conclusion is not None:
                self._outputs.events.add(conclusion, level="warn")
        if self._is_over() and self._state.best is not None:
            self._state.values.copy_(self._state.best)
            self._outputs.events.add(stopped_early(progress))
            progress.after = self._task.measure()
        if progress.before is not None and progress.after is not None:
            line = before_and_after(progress.before, progress.after)
            measured = {"before": progress.before, "after": progress.after}
            if line is not None:
                self._outputs.events.add(line, data=msgspec.to_builtins(measured))
        self._save()

    def _save(self) -> None:
        self._state.save(self._outputs.folder.state)
        write_result_rows(self._outputs.folder.results, self._state.progress.results, self._outputs.curve)
        self._saved_s = time.monotonic()
