"""Calibration: texts that run through a model, and what its linear layers meet."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.errors import StartupError
from engine.quality.passages import together
from engine.quantize.config import MIN_TOKENS
from models.batch import ForwardBatch
from models.kv_groups import LayerGroup
from models.layers.linear import Linear
from models.layers.prologue import AS_IS

_TEXT = Path(__file__).parent / "calibration.txt"
_AT_ONCE = 4  # passages in one step
_STRIP = 1024  # rows of a symmetric product that are computed together, from the diagonal on


def calibration_text(path: str | None) -> str:
    """The file's text, or the one that ships with headrace. Raises StartupError."""
    try:
        return Path(path or _TEXT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise StartupError(f"cannot read the calibration text {path}: {reason}") from error


def calibration_batches(
    chunks: tuple[tuple[int, ...], ...], max_tokens: int, groups: Sequence[LayerGroup], device: torch.device
) -> list[ForwardBatch]:
    """Passages from all over the text, several in a batch, of at most `max_tokens` together; at least one passage.

    Raises StartupError for a text that is too short to tell what a model meets.
    """
    num_tokens = sum(map(len, chunks))
    if num_tokens < MIN_TOKENS:
        raise StartupError(
            f"the calibration text has {num_tokens} tokens; at least {MIN_TOKENS} are needed, and 32,768 are better; "
            "give a longer one, or leave --calibration out for the one that ships with headrace"
        )
    count = max(1, min(len(chunks), max_tokens // max(map(len, chunks))))
    chosen = [chunks[index * len(chunks) // count] for index in range(count)]
    return [together(chosen[start : start + _AT_ONCE], groups, device) for start in range(0, count, _AT_ONCE)]


class LinearInputs:
    """What one linear layer met. hessian: [in, in] fp32, the sum of x x^T; rows: up to `max_rows` of the inputs x.

    Until `complete`, the hessian is right on its diagonal and above it only.
    """

    def __init__(self, in_features: int, max_rows: int) -> None:
        self._max_rows = max_rows
        self.hessian = torch.zeros(in_features, in_features)
        self.rows = torch.empty(0, in_features)

    def add(self, module: nn.Module, args: tuple[Any, ...]) -> None:  # noqa: ARG002 (a hook of torch)
        prologue = args[1] if len(args) > 1 else AS_IS
        rows = prologue(args[0]).to(torch.float32)
        columns = rows.t()
        for start in range(0, len(columns), _STRIP):
            self.hessian[start : start + _STRIP, start:].addmm_(columns[start : start + _STRIP], rows[:, start:])
        missing = self._max_rows - len(self.rows)
        self.rows = torch.cat((self.rows, rows[:missing])) if missing > 0 else self.rows

    def complete(self) -> None:
        self.hessian.triu_().add_(self.hessian.triu(1).t())


@contextlib.contextmanager
def collected(layer: nn.Module, max_rows: int) -> Iterator[dict[str, LinearInputs]]:
    """The inputs of each linear layer inside `layer`, by name, that come while the context lasts; complete after it.

    max_rows: of the inputs themselves that are kept.
    """
    inputs: dict[str, LinearInputs] = {}
    handles = []
    for name, module in layer.named_modules():
        if isinstance(module, Linear):
            inputs[name] = LinearInputs(module.in_features, max_rows)
            handles.append(module.register_forward_pre_hook(inputs[name].add))
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
        for each in inputs.values():
            each.complete()
