"""Time of the phases of a step: clocks around the engine's parts, installed for a benchmark and removed again.

The hot path does not know of them. The time of a part without a clock counts for the phase around it, so that the
phases of a step add up to its time. Steps that are replayed from a tape (recorded native calls, as in a CUDA graph)
are clocked call by call and count no costs, which are counted in an equal step without a tape.
"""

import contextlib
import enum
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch

from engine.child_processes.frames import encode_frame
from engine.commands.bench.costs import (
    Cost,
    attention_cost,
    experts_cost,
    kv_write_cost,
    linear_cost,
    recurrence_cost,
    rotate_and_write_cost,
    sampling_cost,
)
from engine.commands.bench.machine import synchronize
from engine.engine import Engine
from engine.protocol import StepOutputs
from engine.runner import runner as runner_module
from engine.runner.executors.executor import EagerExecutor
from engine.runner.executors.recorded import RecordedExecutor
from models.kernels.cpu.moe import NativeExperts
from models.kernels.cpu.tape import Tape
from models.layers.moe import MoE
from models.layers.recurrence.recurrence import Recurrence
from models.linear.linear import Linear


class Phase(enum.StrEnum):
    LINEARS = "linears"
    HEAD = "output layer"
    ATTENTION = "attention"
    KV_WRITE = "RoPE, KV write"
    RECURRENCE = "recurrences"
    FORWARD = "rest of the model"  # norms, activations, residuals, embedding
    SAMPLING = "sampling"
    SCHEDULER = "scheduler"
    BATCH = "batch building"
    IPC = "encoding for IPC"
    ENGINE = "rest of the step"
    HOOKS = "hooks"  # the time of computing costs; not part of the step


# Phases of native calls on a tape; all others are Phase.FORWARD.
_PHASES = {
    "hr_paged_attention": Phase.ATTENTION,
    "hr_choose_positions": Phase.ATTENTION,
    "hr_rope_kv_write": Phase.KV_WRITE,
    "hr_causal_conv": Phase.RECURRENCE,
    "hr_gate_and_norm": Phase.RECURRENCE,
    "hr_gated_delta": Phase.RECURRENCE,
    "hr_linear_unit": Phase.RECURRENCE,
    "hr_selective_scan": Phase.RECURRENCE,
    "hr_state_space": Phase.RECURRENCE,
    "hr_quantized_linear": Phase.LINEARS,
    "hr_quantized_linear_adapted": Phase.LINEARS,
    "hr_scaled_linear": Phase.LINEARS,
    "hr_bf16_linear": Phase.LINEARS,
    "hr_f32_linear": Phase.LINEARS,
    "hr_head_linear": Phase.LINEARS,
    "hr_moe_rows": Phase.LINEARS,
}


@dataclass(slots=True)
class PhaseClock:
    """Exclusive time of each phase: while an inner phase runs, the outer phase's clock is stopped.

    Invariant: `_open` has the phases that were entered and not left, outermost first.
    """

    device: torch.device
    now: Callable[[], float] = time.perf_counter
    seconds: dict[Phase, float] = field(default_factory=dict)
    costs: dict[Phase, Cost] = field(default_factory=dict)
    _open: list[Phase] = field(default_factory=list)
    _switched_s: float = 0.0

    @property
    def current(self) -> Phase | None:
        return self._open[-1] if self._open else None

    @contextlib.contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        self.enter(phase)
        try:
            yield
        finally:
            self.leave()

    def enter(self, phase: Phase) -> None:
        self._switch()
        self._open.append(phase)

    def leave(self) -> None:
        self._switch()
        self._open.pop()

    def _switch(self) -> None:
        """Credit the time since the last switch to the innermost open phase."""
        synchronize(self.device)
        now_s = self.now()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now_s - self._switched_s
        self._switched_s = now_s

    def charge(self, phase: Phase, cost: Cost) -> None:
        self.costs[phase] = self.costs.get(phase, Cost()) + cost


def timed_step(engine: Engine, clock: PhaseClock) -> StepOutputs:
    """Run one step of an instrumented engine, and encode its outputs."""
    with clock.phase(Phase.ENGINE):
        outputs = engine.step()
    with clock.phase(Phase.IPC):
        encode_frame(outputs)
    return outputs


@contextlib.contextmanager
def instrumented(engine: Engine, clock: PhaseClock, *, uses_tapes: bool = False) -> Iterator[None]:
    """Put clocks around the parts of `engine` while the context lasts.

    uses_tapes: whether steps are replayed from recorded native calls; if not, costs are counted. Uses private
    attributes: the alternative is timing code in the hot path.
    """
    scheduler, runner = engine._scheduler, engine._runner
    model, kv, sampler = runner._model, runner._kv, runner._sampler  # type: ignore[attr-defined]
    backend = model.compute.backend

    def replay(tape: Tape) -> None:
        tape.replay_each(lambda name: clock.phase(_PHASES.get(name, Phase.FORWARD)))

    with contextlib.ExitStack() as stack:
        if uses_tapes:
            stack.enter_context(mock.patch.object(Tape, "replay", replay))
            stack.enter_context(_timed(clock, Phase.FORWARD, RecordedExecutor, "launch"))
        else:
            stack.enter_context(mock.patch.object(runner, "_executor", EagerExecutor(model.decoder, kv)))
        for name in ("schedule", "update", "take_stats"):
            stack.enter_context(_timed(clock, Phase.SCHEDULER, scheduler, name))
        stack.enter_context(_timed(clock, Phase.BATCH, runner_module, "build_batch"))
        stack.enter_context(_timed(clock, Phase.SAMPLING, sampler, "sample", sampling_cost))
        stack.enter_context(_timed(clock, Phase.ATTENTION, backend, "forward", attention_cost))
        stack.enter_context(_timed(clock, Phase.KV_WRITE, backend, "write", kv_write_cost))
        stack.enter_context(_timed(clock, Phase.KV_WRITE, backend, "rotate_and_write", rotate_and_write_cost))
        stack.enter_context(_timed_forward(clock, Phase.FORWARD, model.decoder))
        for module in model.decoder.modules():
            if isinstance(module, Recurrence):
                stack.enter_context(_timed(clock, Phase.RECURRENCE, module, "scan", recurrence_cost))
            elif isinstance(module, MoE):
                stack.enter_context(_timed_experts(clock, module))
            elif isinstance(module, Linear):
                phase = Phase.HEAD if module is model.decoder.head else Phase.LINEARS
                stack.enter_context(_timed_forward(clock, phase, module))
        yield


@contextlib.contextmanager
def _timed(
    clock: PhaseClock, phase: Phase, owner: Any, name: str, cost: Callable[..., Cost] | None = None
) -> Iterator[None]:
    """Time the function `name` of an object or module while the context lasts; `cost` takes the same arguments."""
    function = getattr(owner, name)

    def clocked(*args: Any, **kwargs: Any) -> Any:
        if cost is not None and clock.current is not phase:  # else a caller in the same phase was charged already
            with clock.phase(Phase.HOOKS):
                clock.charge(phase, cost(*args, **kwargs))
        with clock.phase(phase):
            return function(*args, **kwargs)

    with mock.patch.object(owner, name, clocked):
        yield


@contextlib.contextmanager
def _timed_experts(clock: PhaseClock, moe: MoE) -> Iterator[None]:
    """Time MoE experts that are computed in one native call; do nothing for experts that run as Linear layers."""
    native = moe._experts
    if not isinstance(native, NativeExperts):
        yield
        return

    def clocked(*args: Any, **kwargs: Any) -> torch.Tensor:
        with clock.phase(Phase.HOOKS):
            before = moe.rows_per_expert.clone()
        with clock.phase(Phase.LINEARS):
            out = native(*args, **kwargs)
        with clock.phase(Phase.HOOKS):
            clock.charge(Phase.LINEARS, experts_cost(moe.experts, moe.rows_per_expert - before))
        return out

    with mock.patch.dict(vars(moe), {"_experts": clocked}):
        yield


@contextlib.contextmanager
def _timed_forward(clock: PhaseClock, phase: Phase, module: torch.nn.Module) -> Iterator[None]:
    def before(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, Linear):
            with clock.phase(Phase.HOOKS):
                clock.charge(phase, linear_cost(module, args[0]))
        clock.enter(phase)

    def after(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001 (torch's signature)
        clock.leave()

    handles = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
