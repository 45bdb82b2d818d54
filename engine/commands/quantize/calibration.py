"""Calibration: runs a text through a model, and records the inputs of its linear layers."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from engine.command_io.quantize_config import CALIBRATION_TOKENS, MIN_TOKENS
from engine.errors import StartupError
from models.batch import ForwardBatch
from models.forward.chunk_batches import joint_batch
from models.kernels.row_input import IDENTITY
from models.kv.groups import LayerGroup
from models.layers.moe import MoE
from models.linear.linear import Linear
from models.quant.activations import round_by_token
from models.quant.gptq import FactoredInputs
from models.quant.tensor import Encoding

_TEXT = Path(__file__).parent / "calibration.txt"
_CHUNKS_PER_BATCH = 4
_HELD_OUT_INTERVAL = 8  # in rows, from one held-out row to the next
_MIN_DIVISOR = 1e-30  # for divisors that may be 0
_STRIP_ROWS = 1024  # rows of a symmetric product that are computed together, from the diagonal on


def calibration_text(path: str | None) -> str:
    """Read the calibration text from a file; None is the text that ships with headrace. Raises StartupError."""
    try:
        return (_TEXT if path is None else Path(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise StartupError(f"cannot read the calibration text {path!r}: {reason}") from error


def calibration_batches(
    chunks: tuple[tuple[int, ...], ...], max_tokens: int, groups: Sequence[LayerGroup], device: torch.device
) -> list[ForwardBatch]:
    """Return batches of chunks, spread evenly over the text: up to `max_tokens` tokens in all, at least one chunk.

    Raises StartupError for a text that is too short to be representative.
    """
    num_tokens = sum(map(len, chunks))
    if num_tokens < MIN_TOKENS:
        raise StartupError(
            f"the calibration text has {num_tokens} tokens; at least {MIN_TOKENS} are needed, and "
            f"{CALIBRATION_TOKENS:,} are better; "
            "give a longer one, or leave --calibration out for the one that ships with headrace"
        )
    count = max(1, min(len(chunks), max_tokens // max(map(len, chunks))))
    chosen = [chunks[index * len(chunks) // count] for index in range(count)]
    starts = range(0, count, _CHUNKS_PER_BATCH)
    return [joint_batch(chosen[start : start + _CHUNKS_PER_BATCH], groups, device) for start in starts]


@dataclass(slots=True, eq=False)
class InputStats:
    """The recorded inputs of one linear layer of the unquantized model.

    square_sums: [in] fp32, the sum of squares of each input column. samples: some of the input rows, if recorded.
    targets: for each call, the inputs or the outputs (with the residual, if the layer adds to one), whichever are
    narrower. Experts have none, since a router behind quantized layers may send them other rows.
    """

    square_sums: torch.Tensor
    samples: list[torch.Tensor] = field(default_factory=list)
    targets: list[torch.Tensor] = field(default_factory=list)


@contextlib.contextmanager
def watched_inputs(
    layer: nn.Module, row_interval: int | None, *, keeps_targets: bool
) -> Iterator[dict[str, InputStats]]:
    """Record the inputs of the linear layers inside `layer` while the context lasts, by name, in the order of calls.

    row_interval: rows from one sampled row to the next; None samples none.
    """
    stats: dict[str, InputStats] = {}
    experts = [name for name, module in layer.named_modules() if isinstance(module, MoE)]

    def watch(name: str, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        assert isinstance(module, Linear)
        rows = _input_rows(args)
        own = stats.setdefault(name, InputStats(torch.zeros(module.in_features)))
        own.square_sums += rows.square().sum(0)
        if row_interval is not None:
            own.samples.append(rows[::row_interval].clone())
        if keeps_targets and not any(name.startswith(f"{each}.") for each in experts):
            target = output if has_narrow_outputs(module) else rows
            own.targets.append(target.clone())  # the next call may overwrite it

    with contextlib.ExitStack() as stack:
        for name, linear in linears_of(layer).items():
            stack.callback(linear.register_forward_hook(partial(watch, name)).remove)
        yield stats


class InputSums:
    """Sums over the input rows x that a linear layer receives when the layers before it are quantized.

    hessian: [in, in] fp32, the sum of x x^T; until `complete` valid only on and above its diagonal. error_sums: the sum
    of d x^T, or None without targets; d is the target minus the actual value, of outputs if they are narrower than
    inputs ([out, in]), else of inputs ([in, in]). held_out: (x, d) of the rows that are kept out of the sums.
    """

    def __init__(
        self, linear: Linear, targets: Sequence[torch.Tensor] = (), divisors: torch.Tensor | None = None
    ) -> None:
        """targets: per call, the inputs or outputs recorded in the unquantized model. divisors: [in], factors by which
        the inputs have been divided since that recording."""
        self._targets = iter(targets)
        self._divisors = divisors
        width = linear.out_features if has_narrow_outputs(linear) else linear.in_features
        self.hessian = torch.zeros(linear.in_features, linear.in_features)
        self.error_sums = torch.zeros(width, linear.in_features) if targets else None
        self.held_out: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, linear: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Forward pre-hook of torch: adds the input rows of a call to the sums."""
        assert isinstance(linear, Linear)
        rows = _input_rows(args)
        if self.error_sums is not None:
            errors = self._errors(linear, rows, kwargs.get("residual"))
            count = len(rows) - len(rows) // _HELD_OUT_INTERVAL
            self.held_out.append((rows[count:].clone(), errors[count:].clone()))
            rows = rows[:count]
            self.error_sums.addmm_(errors[:count].t(), rows)
        columns = rows.t()
        for start in range(0, len(columns), _STRIP_ROWS):
            self.hessian[start : start + _STRIP_ROWS, start:].addmm_(
                columns[start : start + _STRIP_ROWS], rows[:, start:]
            )

    def _errors(self, linear: Linear, rows: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """Return the target of the next call minus the actual value: [T, out or in]."""
        target = next(self._targets)
        if not has_narrow_outputs(linear):
            return (target if self._divisors is None else target / self._divisors) - rows
        errors = target - F.linear(rows, linear.weight, linear.bias)
        return errors if residual is None else errors - residual

    def complete(self) -> None:
        self.hessian.triu_().add_(self.hessian.triu(1).t())

    def corrected(self, linear: Linear, inputs: FactoredInputs) -> torch.Tensor:
        """Return the layer's weights [out, in], changed so that its outputs come nearer to the targets.

        The squared error is least for W + D H^-1, where D is the sum of the outputs' errors times x^T, or W times the
        same sum of the inputs' errors (Li et al. 2025, GPTAQ, arXiv:2504.02692, who solve it column by column). Fitted
        to few rows, the change would fit their noise too: only the share that the held-out rows confirm is applied.
        """
        if self.error_sums is None:
            return linear.weight
        change = inputs.solve(self.error_sums)
        rows, errors = (torch.cat(parts) for parts in zip(*self.held_out, strict=True))
        if not has_narrow_outputs(linear):
            change, errors = linear.weight @ change, errors @ linear.weight.t()
        predicted = rows @ change.t()
        share = (predicted * errors).sum() / predicted.square().sum().clamp_min(_MIN_DIVISOR)
        return linear.weight.add(change, alpha=float(share.clamp(0.0, 1.0)))


class _StopForward(Exception):
    """Exception that ends a forward pass when the rest of the layer need not be computed."""


def sum_inputs(sums: Mapping[str, InputSums], layer: nn.Module, steps: Iterable[Callable[[], None]]) -> None:
    """Run the steps, which compute `layer`, and add the inputs of its linear layers to the sums; complete the sums.

    If `sums` has a single linear layer, with targets, each step stops at that layer, which is called once per step.
    """

    def stop(*_: object) -> None:
        raise _StopForward

    linears = linears_of(layer)
    with contextlib.ExitStack() as stack:
        for name, own in sums.items():
            stack.callback(linears[name].register_forward_pre_hook(own.add, with_kwargs=True).remove)
            if len(sums) == 1 and own.error_sums is not None:
                stack.callback(linears[name].register_forward_pre_hook(stop).remove)
        for step in steps:
            with contextlib.suppress(_StopForward):
                step()
    for own in sums.values():
        own.complete()


@contextlib.contextmanager
def rounded_inputs(layer: nn.Module, encoding: Encoding, only: str | None = None) -> Iterator[None]:
    """Make linear layers inside `layer` quantize their inputs per token, as in serving, while the context lasts.

    only: the name of the single linear layer to change; None changes all.
    """

    def round_rows(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (round_by_token(_input_rows(args), encoding),), kwargs

    with contextlib.ExitStack() as stack:
        for name, linear in linears_of(layer).items():
            if only in (None, name):
                stack.callback(linear.register_forward_pre_hook(round_rows, with_kwargs=True).remove)
        yield


def linears_of(layer: nn.Module) -> dict[str, Linear]:
    return {name: module for name, module in layer.named_modules() if isinstance(module, Linear)}


def has_narrow_outputs(linear: Linear) -> bool:
    return linear.out_features <= linear.in_features


def _input_rows(args: tuple[Any, ...]) -> torch.Tensor:
    """Return the rows that Linear.forward multiplies by its weight, [T, in] fp32, from its arguments."""
    prologue = args[1] if len(args) > 1 else IDENTITY
    return prologue(args[0]).to(torch.float32)
