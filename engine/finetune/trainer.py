"""Trainer: the loop over steps and epochs, with validation, checkpoints and events."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.finetune.anchor import Anchor
from engine.finetune.objective import Objective, add_gradients, evaluate
from engine.finetune.order import BatchOrder, ReplayOrder
from engine.finetune.schedule import learning_rate
from engine.finetune.state import Measured, TrainingState
from engine.finetune.verdict import before_and_after, warnings
from engine.jobs.finetune.auto import Resolved
from engine.jobs.finetune.events import EventLog
from engine.jobs.finetune.items import TrainingItem
from engine.jobs.finetune.job import JobFolder
from engine.jobs.finetune.loss_plot import write_loss_plot
from engine.jobs.finetune.results import StepResult, write_results
from models.decoder import Decoder
from models.progress import ProgressReport
from models.training.lora import Lora

_SAVE_INTERVAL_S = 30.0


@dataclass(frozen=True, slots=True)
class TrainingData:
    """items: of the file. replay: the base's own answers. held_out: such answers that are not learned. text: general
    text, on which perplexity is measured."""

    items: Sequence[TrainingItem]
    valid: Sequence[TrainingItem] = ()
    replay: Sequence[TrainingItem] = ()
    held_out: Sequence[TrainingItem] = ()
    text: Sequence[TrainingItem] = ()


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
        decoder: Decoder,
        lora: Lora,
        objective: Objective,
        anchor: Anchor,
        data: TrainingData,
        orders: tuple[BatchOrder, ReplayOrder],
        resolved: Resolved,
        state: TrainingState,
        outputs: Outputs,
    ) -> None:
        """objective, anchor: that remember what they compare with. state: new, or what is gone on with."""
        self._decoder = decoder
        self._lora = lora
        self._objective = objective
        self._anchor = anchor
        self._data = data
        self._order, self._replay_order = orders
        self._resolved = resolved
        self._state = state
        self._outputs = outputs
        self._saved_s = time.monotonic()

    def run(self) -> None:
        """Train to the end. Raises OSError if a file cannot be written; whatever ends it, a later run goes on."""
        progress = self._state.progress
        if progress.before is None:
            progress.before = self._measure()
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
        replayed = [self._data.replay[index] for index in self._replay_order.batch(step)]
        began_s = time.monotonic()
        try:
            score = add_gradients(self._objective, items, self._decoder, self._lora, self._anchor, replayed)
        except SystemExit:  # of SIGTERM, which mostly comes here; nothing of this step has been changed yet
            self._save()
            raise
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
            divergence=score.divergence,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=sum(item.num_tokens for item in (*items, *replayed)),
            step_s=time.monotonic() - began_s,
        )

    def _measure(self) -> Measured:
        data, decoder = self._data, self._decoder
        valid = evaluate(self._objective, data.valid, decoder) if data.valid else None
        return Measured(
            valid_loss=None if valid is None else valid.loss,
            valid_accuracy=None if valid is None else valid.accuracy,
            text_loss=evaluate(self._objective, data.text, decoder).loss if data.text else None,
            divergence=self._anchor.measure(data.held_out) if data.held_out else None,
        )

    def _end_epoch(self) -> None:
        """Validate, keep a checkpoint, answer the samples, save."""
        progress, outputs = self._state.progress, self._outputs
        epoch = -(-progress.step // self._order.steps_per_epoch)
        train = progress.results[-self._order.steps_per_epoch :]
        found = self._measure()
        shown: dict[str, float] = {
            "train_loss": sum(r.train_loss for r in train) / len(train),
            "train_mean_token_accuracy": sum(r.train_accuracy for r in train) / len(train),
        }
        if found.valid_loss is not None and found.valid_accuracy is not None:
            shown |= {"full_valid_loss": found.valid_loss, "full_valid_mean_token_accuracy": found.valid_accuracy}
            last = progress.results[-1]
            progress.results[-1] = StepResult(
                last.step, last.train_loss, last.train_accuracy, found.valid_loss, found.valid_accuracy
            )
        if found.text_loss is not None:
            shown["general_text_loss"] = found.text_loss
        if found.divergence is not None:
            shown["general_divergence"] = found.divergence
        for warning in warnings(progress, found):
            outputs.events.add(warning, level="warn")
        if found.valid_loss is not None and (progress.best_loss is None or found.valid_loss < progress.best_loss):
            progress.best_loss, progress.best_step = found.valid_loss, progress.step
            self._state.keep_best()
        folder = outputs.checkpoints / f"step-{progress.step}"
        outputs.save_adapter(folder)
        text = ", ".join(f"{name} {value:.4f}" for name, value in shown.items() if "accuracy" not in name)
        outputs.events.add(
            f"Epoch {epoch}: {text}", checkpoint=str(folder), data={"epoch": epoch, "step": progress.step, **shown}
        )
        outputs.sample(epoch)
        progress.after = found
        self._save()
        write_loss_plot(outputs.folder.plot, progress.results)

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
            progress.after = self._measure()
        if progress.before is not None and progress.after is not None:
            line = before_and_after(progress.before, progress.after)
            measured = {"before": progress.before, "after": progress.after}
            if line is not None:
                self._outputs.events.add(line, data=msgspec.to_builtins(measured))
        progress.is_done = True
        self._save()

    def _save(self) -> None:
        self._state.save(self._outputs.folder.state)
        write_results(self._outputs.folder.results, self._state.progress.results)
        self._saved_s = time.monotonic()
