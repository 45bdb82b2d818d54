"""`headrace bench roofline`: each phase's time, against the least time for its bytes and operations on this machine."""

import dataclasses
import statistics
import time
from dataclasses import dataclass

import torch

from engine.command_io.bench_config import RooflineConfig
from engine.commands.bench.costs import Cost
from engine.commands.bench.drive import RequestMaker, check_fits, run_batch
from engine.commands.bench.machine import Machine, ReadProbe, measure_machine
from engine.commands.bench.phases import Phase, PhaseClock, instrumented, timed_step
from engine.engine import Engine
from engine.errors import StartupError
from engine.protocol import AbortReason, EngineInfo, StepOutputs


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """The result for one phase of a prefill or of a decode step."""

    phase: Phase
    ms: float  # median
    num_bytes: float
    flops: float
    limit_ms: float | None  # None for a phase without counted costs

    @property
    def share(self) -> float | None:
        """Least possible time divided by the measured time: 1 is as fast as the machine allows."""
        return None if self.limit_ms is None or self.ms == 0 else self.limit_ms / self.ms


@dataclass(frozen=True, slots=True)
class RooflineResult:
    """The result for a prefill of one prompt, or for one decode step of a batch."""

    name: str
    num_tokens: int  # computed tokens
    ms: float  # median without clocks
    read_bytes_per_s: float  # median of reads between the samples; the limits are computed from it
    limit_ms: float  # sum over the phases
    phases: list[PhaseResult]  # with clocks, which themselves cost a little


@dataclass(frozen=True, slots=True)
class Roofline:
    machine: Machine
    results: list[RooflineResult]


@dataclass(frozen=True, slots=True)
class _Samples:
    """The measurements of one prefill or decode step."""

    name: str
    num_tokens: int
    plain_s: list[float]
    clocks: list[PhaseClock]
    read_rates: list[float]


def measure_roofline(engine: Engine, info: EngineInfo, config: RooflineConfig) -> Roofline:
    """Measure the machine, prefills, decodes, and the machine again. Raises StartupError if a batch does not fit."""
    batch_sizes = sorted(config.batch_size)
    # The batch grows from size to size, and its first sequences run through all of them.
    min_output = (2 * config.num_steps + 1) * len(batch_sizes)
    for length in config.prefill_len:
        check_fits(info, batch_size=1, tokens_each=length + 1)
    check_fits(info, batch_size=batch_sizes[-1], tokens_each=config.context_len + min_output)
    device = torch.device(info.device)
    probe = ReadProbe(device, info.weight_bytes)
    machine = measure_machine(device, probe)
    maker = RequestMaker(info.vocab_size, config.seed)
    samples = [_measure_prefill(engine, device, config, maker, length, probe) for length in config.prefill_len]
    batch = _DecodingBatch(engine, maker, config.context_len, info.max_model_len - config.context_len)
    try:
        samples += [_measure_decode(engine, device, config, batch, size, probe) for size in batch_sizes]
    finally:
        batch.end()
    machine = machine.best_of(measure_machine(device, probe))
    return Roofline(machine, [_result(each, machine) for each in samples])


def _measure_prefill(
    engine: Engine, device: torch.device, config: RooflineConfig, maker: RequestMaker, length: int, probe: ReadProbe
) -> _Samples:
    """Measure a prompt from its first step to its first token, in as many steps as the engine takes."""
    samples = _Samples(f"prefill of {length}", length, [], [], [])
    run_batch(engine, [maker.request(maker.ids(length), 1)])
    for _ in range(config.num_iters):
        samples.read_rates.append(probe.rate())
        samples.plain_s.append(run_batch(engine, [maker.request(maker.ids(length), 1)]).total_s)
        engine.add(maker.request(maker.ids(length), 1))
        clock = PhaseClock(device)
        with instrumented(engine, clock):
            while engine.has_work:
                timed_step(engine, clock)
        samples.clocks.append(clock)
    return samples


def _measure_decode(
    engine: Engine, device: torch.device, config: RooflineConfig, batch: "_DecodingBatch", size: int, probe: ReadProbe
) -> _Samples:
    batch.grow(size)
    samples = _Samples(f"decode of {size}", size, [], [], [])
    counted = PhaseClock(device)
    with instrumented(engine, counted):
        batch.check(timed_step(engine, counted))
    for _ in range(config.num_steps):
        samples.read_rates.append(probe.rate())
        began_s = time.perf_counter()
        batch.check(engine.step())
        samples.plain_s.append(time.perf_counter() - began_s)
        clock = PhaseClock(device)
        with instrumented(engine, clock, uses_tapes=True):
            batch.check(timed_step(engine, clock))
        clock.costs = counted.costs
        samples.clocks.append(clock)
    return samples


class _DecodingBatch:
    """Sequences whose prompts are computed, and that decode in every step."""

    def __init__(self, engine: Engine, maker: RequestMaker, context_len: int, output_len: int) -> None:
        self._engine = engine
        self._maker = maker
        self._context_len = context_len
        self._output_len = output_len
        self._ids: list[str] = []

    def grow(self, size: int) -> None:
        """Add sequences until there are `size`, and run them to their first tokens; earlier sequences of the batch
        decode meanwhile."""
        waiting = set()
        while len(self._ids) < size:
            request = self._maker.request(self._maker.ids(self._context_len), self._output_len)
            self._engine.add(request)
            self._ids.append(request.id)
            waiting.add(request.id)
        while waiting:
            outputs = self._engine.step()
            self.check(outputs)
            waiting -= {output.id for output in outputs.outputs if output.new_ids}

    def check(self, outputs: StepOutputs) -> None:
        """Raise StartupError if the batch lost a sequence: it would be smaller than requested."""
        if outputs.stats.preemptions or any(output.finish_reason is not None for output in outputs.outputs):
            raise StartupError(
                f"{len(self._ids)} sequences outgrew the KV cache or the context while they were measured; give fewer "
                "--batch-size, a shorter --context-len, or more --kv-cache-memory-bytes"
            )

    def end(self) -> None:
        for request_id in self._ids:
            self._engine.abort(request_id, AbortReason.SHUTDOWN)
        while self._engine.has_work:
            self._engine.step()


def _result(samples: _Samples, machine: Machine) -> RooflineResult:
    clocks = samples.clocks
    read_rate = statistics.median(samples.read_rates)
    machine = dataclasses.replace(machine, read_bytes_per_s=read_rate)
    phases = []
    for phase in Phase:
        if phase is Phase.HOOKS or not any(phase in clock.seconds for clock in clocks):
            continue
        ms = statistics.median(clock.seconds.get(phase, 0.0) for clock in clocks) * 1e3
        costs = [clock.costs[phase] for clock in clocks if phase in clock.costs]
        num_bytes = statistics.fmean(cost.num_bytes for cost in costs) if costs else 0.0
        flops = statistics.fmean(cost.flops for cost in costs) if costs else 0.0
        limit_ms = statistics.fmean(limit_s(cost, machine) for cost in costs) * 1e3 if costs else None
        phases.append(PhaseResult(phase, ms, num_bytes, flops, limit_ms))
    limit_ms = sum(phase.limit_ms or 0.0 for phase in phases)
    plain_ms = statistics.median(samples.plain_s) * 1e3
    return RooflineResult(samples.name, samples.num_tokens, plain_ms, read_rate, limit_ms, phases)


def limit_s(cost: Cost, machine: Machine) -> float:
    """Return the least seconds for a cost: the longer of its memory and its compute time, which overlap."""
    return max(cost.num_bytes / machine.read_bytes_per_s, cost.flops / machine.compute_rate(cost.dtype))
