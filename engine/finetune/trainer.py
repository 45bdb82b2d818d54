"""Trainer: the loop over steps and epochs, with validation, checkpoints and events."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.finetune.objective import Objective, TokenObjective, add_gradients, evaluate
from engine.finetune.order import BatchOrder
from engine.finetune.schedule import learning_rate
from engine.finetune.state import TrainingState
from engine.jobs.finetune.auto import Resolved
from engine.jobs.finetune.events import EventLog
from engine.jobs.finetune.items import TrainingItem
from engine.jobs.finetune.job import JobFolder
from engine.jobs.finetune.results import StepResult, write_results
from models.progress import ProgressReport
from models.training.lora import Lora

_SAVE_INTERVAL_S = 30.0
_FORGETTING = 0.3  # nats a token that the loss on the base's own answers may rise by before it is said


@dataclass(frozen=True, slots=True)
class TrainingData:
    """items: of the file and replayed ones. general: answers of the base's own that are not learned."""

    items: Sequence[TrainingItem]
    valid: Sequence[TrainingItem]
    general: Sequence[TrainingItem]


@dataclass(frozen=True, slots=True)
class Outputs:
    """save_adapter: writes the adapter as it is into a folder. sample: answers prompts, and adds events of it."""

    folder: JobFolder
    events: EventLog
    progress: ProgressReport
    save_adapter: Callable[[Path], None]
    sample: Callable[[int], None]
    checkpoints: Path


class Trainer:
    def __init__(
        self,
        lora: Lora,
        objective: Objective,
        general: TokenObjective,
        data: TrainingData,
        order: BatchOrder,
        resolved: Resolved,
        state: TrainingState,
        outputs: Outputs,
    ) -> None:
        """general: the objective of `data.general`. state: new, or what is gone on with."""
        self._lora = lora
        self._objective = objective
        self._general = general
        self._data = data
        self._order = order
        self._resolved = resolved
        self._state = state
        self._outputs = outputs
        self._saved_s = time.monotonic()

    def run(self) -> None:
        """Train to the end. Raises OSError if a file cannot be written; whatever ends it, a later run goes on."""
        progress = self._state.progress
        if self._data.general and progress.base_general_loss is None:
            progress.base_general_loss = evaluate(self._general, self._data.general).loss
        total = self._resolved.num_steps
        while progress.step < total and not self._is_over():
            self._step(progress.step)
            self._outputs.progress("train", progress.step, total, "steps")
            if progress.step % self._order.steps_per_epoch == 0 or progress.step == total:
                self._end_epoch()
            elif time.monotonic() - self._saved_s > _SAVE_INTERVAL_S:
                self._save()
        self._finish()

    def _step(self, step: int) -> None:
        given = self._resolved.given
        items = [self._data.items[index] for index in self._order.batch(step)]
        began_s = time.monotonic()
        score = add_gradients(self._objective, items, self._lora)
        rate = learning_rate(
            self._resolved.learning_rate, step, self._resolved.num_steps, given.warmup_ratio, given.schedule
        )
        norm = self._state.update(rate, given.max_grad_norm)
        progress = self._state.progress
        progress.step = step + 1
        progress.results.append(StepResult(step + 1, score.loss, score.accuracy))
        self._outputs.events.add(
            f"Step {step + 1}/{self._resolved.num_steps}: training loss={score.loss:.4f}",
            kind="metrics",
            step=step + 1,
            total_steps=self._resolved.num_steps,
            train_loss=score.loss,
            train_mean_token_accuracy=score.accuracy,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=sum(item.num_tokens for item in items),
            step_s=time.monotonic() - began_s,
        )

    def _end_epoch(self) -> None:
        """Validate, keep a checkpoint, answer the samples, save."""
        progress, outputs = self._state.progress, self._outputs
        epoch = -(-progress.step // self._order.steps_per_epoch)
        train = progress.results[-self._order.steps_per_epoch :]
        measured = {"epoch": epoch, "step": progress.step, "train_loss": sum(r.train_loss for r in train) / len(train)}
        if self._data.valid:
            score = evaluate(self._objective, self._data.valid)
            measured |= {"full_valid_loss": score.loss, "full_valid_mean_token_accuracy": score.accuracy}
            last = progress.results[-1]
            progress.results[-1] = StepResult(
                last.step, last.train_loss, last.train_accuracy, score.loss, score.accuracy
            )
            if progress.best_loss is None or score.loss < progress.best_loss:
                progress.best_loss, progress.best_step = score.loss, progress.step
                self._state.keep_best()
            else:
                outputs.events.add(
                    f"The validation loss was lower after step {progress.best_step} ({progress.best_loss:.4f}) than "
                    f"now ({score.loss:.4f}): the adapter may be learning the examples by heart; fewer epochs may do "
                    "better",
                    level="warn",
                )
        if self._data.general:
            assert progress.base_general_loss is not None
            general = evaluate(self._general, self._data.general).loss
            measured |= {"general_loss": general, "base_general_loss": progress.base_general_loss}
            if general > progress.base_general_loss + _FORGETTING:
                outputs.events.add(
                    f"The loss on the base's own answers has risen from {progress.base_general_loss:.3f} to "
                    f"{general:.3f}: general answers may get worse; a lower learning rate or more replay keeps them",
                    level="warn",
                )
        folder = outputs.checkpoints / f"step-{progress.step}"
        outputs.save_adapter(folder)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in measured.items() if "loss" in name)
        outputs.events.add(f"Epoch {epoch}: {shown}", checkpoint=str(folder), data=measured)
        outputs.sample(epoch)
        self._save()

    def _is_over(self) -> bool:
        """Whether to stop early: the validation loss has not fallen for so many epochs."""
        progress, patience = self._state.progress, self._resolved.given.early_stopping
        if patience is None or progress.best_step is None:
            return False
        return progress.step - progress.best_step >= patience * self._order.steps_per_epoch

    def _finish(self) -> None:
        progress = self._state.progress
        if self._is_over() and self._state.best is not None:
            self._state.values.copy_(self._state.best)
            self._outputs.events.add(
                f"Stopped early; the adapter is that of step {progress.best_step}, with a validation loss of "
                f"{progress.best_loss:.4f}"
            )
        progress.is_done = True
        self._save()

    def _save(self) -> None:
        self._state.save(self._outputs.folder.state)
        write_results(self._outputs.folder.results, self._state.progress.results)
        self._saved_s = time.monotonic()
