"""`python -m engine.commands.planned JOB`: prints a PlannedModels in JSON. JOB is a PlanJob.

Sizes are read from the headers of the model's files; no weights are read. The limits of this machine are measured if
the job names no other hardware.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from engine.child_processes.lifetime import end_with_parent, exit_on_sigterm
from engine.commands.bench.machine import Machine, ReadProbe, measure_machine
from engine.commands.simulated import model_on_card, open_simulated
from engine.commands.weighed import compute_by_torch, planned_decoder
from engine.config import EngineConfig
from engine.errors import HeadraceError, OptionError
from engine.runner.kv_budget import plan_kv_budget
from engine.runner.kv_groups import kv_groups
from engine.runner.step_work import decoder_work
from engine.simulation.costs import Card
from engine.simulation.hardware import SimulatedModel, find_card
from engine.simulation.planning.job import PlanJob, PlannedModels
from engine.simulation.planning.plan import Variant
from engine.startup.answer import print_answer
from engine.startup.device import planned_device
from engine.startup.early import compute_threads
from models.caches.inventory import inventory
from models.errors import ModelError, SourceError
from models.kernels.cpu.library import set_num_threads
from models.sources.resolve import find_local
from models.system.memory import free_memory_bytes, is_host

_FULL_WIDTH = 2  # bytes of a weight; narrower ones are multiplied in int8 on a CPU


def main(argv: Sequence[str]) -> int:
    exit_on_sigterm()
    end_with_parent()
    job = msgspec.json.decode(argv[0], type=PlanJob)
    return print_answer(lambda: plan_models(job))


def plan_models(job: PlanJob) -> PlannedModels:
    """Return the sizes of a model and its variants on the job's hardware. Raises ModelError, OptionError or
    StartupError."""
    _check_is_here(job.engine.model)
    model, resize = _on_hardware(job)
    return PlannedModels(model, [_variant(name, config, resize) for name, config in job.variants.items()])


def _check_is_here(model: str) -> None:
    """Raise OptionError, which names the models that are here, if `model` is not on this machine."""
    try:
        reason = "it is not on this machine" if find_local(model) is None else ""
    except SourceError as error:
        reason = str(error)
    if reason:
        here = ", ".join(each.name for each in inventory() if each.kind.is_model) or "none"
        raise OptionError(
            f"there is no model {model}: {reason}; models on this machine: {here}; others are fetched by headrace pull"
        )


def _on_hardware(job: PlanJob) -> tuple[SimulatedModel, Callable[[EngineConfig], SimulatedModel]]:
    """Return the model, and a function that returns it with other options, within the same memory."""
    hardware = job.hardware
    if isinstance(hardware, str):
        card = find_card(hardware)
        return model_on_card(job.engine, card), lambda config: model_on_card(config, card)
    sized = size_model(job.engine)
    if hardware is None:
        machine = _machine(job.engine, sized)
        model = replace(sized, limits=_limits(machine, job.engine, sized), source=_source(machine))
    else:
        model = replace(hardware, model=job.engine.model)
        if model.work.every.flops_per_row != sized.work.every.flops_per_row:
            raise OptionError(f"the file of --hardware was saved for {hardware.model}, which is not {sized.model}")

    def resized(config: EngineConfig) -> SimulatedModel:
        other = size_model(replace(config, kv_cache_memory_bytes=model.kv_bytes or config.kv_cache_memory_bytes))
        if hardware is None:
            return replace(other, limits=_limits(machine, config, other), source=model.source)
        times = hardware.measured and hardware.measured.with_weights(sized.weight_bytes, other.weight_bytes)
        return replace(
            other, measured=times, hardware=hardware.hardware, source=hardware.source, limits=hardware.limits
        )

    return model, resized


def _variant(name: str, config: EngineConfig, resize: Callable[[EngineConfig], SimulatedModel]) -> Variant:
    try:
        return Variant(name, resize(config))
    except (ModelError, HeadraceError) as error:
        return Variant(name, None, str(error))


def size_model(config: EngineConfig) -> SimulatedModel:
    """Return the sizes that a model would have on this machine, without times. Raises ModelError, OptionError or
    StartupError."""
    opened, device = open_simulated(config), planned_device(config.device)
    decoder = planned_decoder(opened, config)
    layout = compute_by_torch(config).cache_layout(opened.mixers)
    groups, weight_bytes = kv_groups(layout, config.block_size), decoder.weight_bytes()
    free_bytes = max(0, free_memory_bytes(device) - weight_bytes)
    budget = plan_kv_budget(
        config,
        groups=groups,
        bytes_per_block=layout.block_bytes(config.block_size),
        bytes_per_state=layout.state_bytes,
        model_max_len=opened.max_position,
        free_bytes=free_bytes,
        default_bytes=None if is_host(device) else int(free_bytes * config.gpu_memory_utilization),
    )
    return SimulatedModel(
        model=config.model,
        hardware="this machine",
        source="",
        work=decoder_work(decoder, layout, opened.vocab_size),
        kv_groups=groups,
        num_blocks=budget.num_blocks,
        num_states=budget.num_states,
        max_model_len=budget.max_model_len,
        is_gpu=not is_host(device),
        weight_bytes=weight_bytes,
        kv_bytes=budget.kv_bytes,
    )


def _machine(config: EngineConfig, model: SimulatedModel) -> Machine:
    """Measure the limits of this machine, with as many threads as an engine would have."""
    device = planned_device(config.device)
    if is_host(device):
        set_num_threads(compute_threads(config.threads))
    return measure_machine(device, ReadProbe(device, model.weight_bytes))


def _limits(machine: Machine, config: EngineConfig, model: SimulatedModel) -> Card:
    """Return the limits for a model, whose narrow weights are multiplied in int8 on a CPU."""
    work, head = model.work, model.work.head
    flops = work.every.flops_per_row + work.late.flops_per_row + head.flops_per_row
    width = 2 * (work.every.read_bytes(1) + work.late.read_bytes(1) + head.num_bytes) / max(1, flops)
    dtype = config.dtype.value if config.dtype.value in machine.gemm_flops_per_s else "bfloat16"
    rate = machine.compute_rate("int8" if width < _FULL_WIDTH and not model.is_gpu else dtype)
    return Card("this machine", machine.read_bytes_per_s, rate, model.weight_bytes + model.kv_bytes, _source(machine))


def _source(machine: Machine) -> str:
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return f"{machine.name}, {machine.threads} threads, {machine.read_bytes_per_s / 1e9:.1f} GB/s ({date})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
