"""TrainingState: everything that makes an interrupted job continue with bit-identical results."""

import math
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from engine.command_io.finetuning.job import write_parts_atomically
from engine.command_io.finetuning.results import ResultRow
from engine.errors import StartupError
from models.training.tensor_file import tensor_file_parts

_META = "training"


class Measurements(msgspec.Struct, frozen=True):
    """Evaluation results of the current adapter; None where there is no data to evaluate on. Losses are means in nats,
    rewards are means over sampled answers."""

    valid_loss: float | None = None
    valid_accuracy: float | None = None
    text_loss: float | None = None  # loss on general text
    divergence: float | None = None  # KL divergence from the base model, on its answers to held-out questions
    valid_reward: float | None = None


class TrainingProgress(msgspec.Struct, kw_only=True):
    """Progress of a job. digest: hash of the job and its examples. step: number of completed updates."""

    digest: str
    step: int = 0
    results: list[ResultRow] = []
    before: Measurements | None = None  # before the first step
    after: Measurements | None = None  # the latest
    best_loss: float | None = None  # lowest loss on the validation file
    best_reward: float | None = None  # highest reward on the validation file
    best_step: int | None = None

    def is_best(self, found: Measurements) -> bool:
        """Return whether these results on the validation file beat all earlier ones."""
        if found.valid_reward is not None:
            return self.best_reward is None or found.valid_reward > self.best_reward
        return found.valid_loss is not None and (self.best_loss is None or found.valid_loss < self.best_loss)

    def set_best(self, found: Measurements) -> None:
        """Record these measurements, after the current step, as the best."""
        self.best_loss, self.best_reward, self.best_step = found.valid_loss, found.valid_reward, self.step


class TrainingState:
    """The adapter's weights, the optimizer's moments, the best weights so far, and TrainingProgress."""

    def __init__(self, values: torch.Tensor, gradients: torch.Tensor, weight_decay: float, digest: str) -> None:
        self.progress = TrainingProgress(digest=digest)
        self.best: torch.Tensor | None = None
        self._parameter = torch.nn.Parameter(values)  # shares its memory
        self._parameter.grad = gradients
        self._optimizer = torch.optim.AdamW([self._parameter], lr=0.0, weight_decay=weight_decay)

    @property
    def values(self) -> torch.Tensor:
        return self._parameter.detach()

    def update(self, learning_rate: float, max_grad_norm: float) -> float:
        """Update the weights by one step of AdamW; return the gradient norm before clipping.

        Raises StartupError if the gradient is not finite; the weights stay unchanged then.
        """
        norm = float(torch.nn.utils.clip_grad_norm_([self._parameter], max_grad_norm))
        if not math.isfinite(norm):
            raise StartupError(
                f"the gradient's norm in step {self.progress.step + 1} is {norm}: training has diverged; start another "
                "job with a lower --learning-rate-multiplier"
            )
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.step()
        return norm

    def keep_best(self) -> None:
        self.best = self.values.clone()

    def save(self, path: Path) -> None:
        """Write the state to a file atomically. Raises OSError."""
        tensors = {"values": self.values, **self._moments()}
        if self.best is not None:
            tensors["best"] = self.best
        meta = {_META: msgspec.json.encode(self.progress).decode()}
        write_parts_atomically(path, tensor_file_parts(tensors, meta))

    def load(self, path: Path) -> bool:
        """Load a saved state; return False if it belongs to another job. Raises StartupError if it cannot be read."""
        try:
            with safe_open(path, "pt") as file:
                progress = msgspec.json.decode(file.metadata()[_META], type=TrainingProgress)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError, KeyError, TypeError, msgspec.DecodeError) as error:
            raise StartupError(f"{path} cannot be read ({error}); remove it to start again") from error
        if progress.digest != self.progress.digest:
            return False
        self.progress = progress
        self.best = tensors.get("best")
        with torch.no_grad():
            self._parameter.copy_(tensors["values"])
        moments = {name: tensors[name] for name in ("step", "exp_avg", "exp_avg_sq") if name in tensors}
        if moments:
            self._optimizer.state[self._parameter] = moments
        return True

    def _moments(self) -> dict[str, torch.Tensor]:
        return dict(self._optimizer.state.get(self._parameter, {}))
