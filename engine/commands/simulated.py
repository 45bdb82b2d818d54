"""`python -m engine.commands.simulated JOB`: prints a SimulatedModel in JSON. JOB is [EngineConfig, card or null].

For a card, sizes are read from the model's headers, and no weights are. Without one, the model is loaded and its steps
are measured on this machine.
"""

import sys
import time
from collections.abc import Sequence

import msgspec

from engine.child_processes.lifetime import end_with_parent, exit_on_sigterm
from engine.command_io.bench_config import RooflineConfig
from engine.command_io.progress import stderr_lines
from engine.commands.bench.phases import Phase
from engine.commands.bench.roofline import RooflineResult, measure_roofline
from engine.commands.weighed import compute_by_torch, open_as_served
from engine.config import EngineConfig, Quantization
from engine.errors import OptionError, StartupError
from engine.protocol import EngineInfo
from engine.runner.kv_budget import plan_kv_budget
from engine.runner.kv_groups import kv_groups
from engine.runner.step_work import decoder_work, model_work
from engine.scheduling.kv.groups import KVGroup, peak_blocks
from engine.simulation.costs import Card
from engine.simulation.fitting import MeasuredStep, fit_times
from engine.simulation.hardware import SimulatedModel, card_source, find_card
from engine.startup.answer import print_answer
from engine.startup.build import build_engine
from engine.wording import gib
from models.loading.load import assigned_decoder
from models.loading.open import OpenedModel
from models.pooling.traits import is_pooling_model
from models.sources.resolve import find_local

# Phases that grow with the rows of a step; attention is apart, and all others grow with its sequences.
_OF_ROWS = frozenset((Phase.LINEARS, Phase.KV_WRITE, Phase.RECURRENCE, Phase.FORWARD))
_PREFILLS, _BATCHES = (128, 512, 2048), (1, 2, 4, 8, 16, 32, 64)
_CONTEXT, _NUM_STEPS, _NUM_ITERS = 256, 6, 2


def main(argv: Sequence[str]) -> int:
    exit_on_sigterm()
    end_with_parent()
    config, card = msgspec.json.decode(argv[0], type=tuple[EngineConfig, str | None])
    return print_answer(lambda: measured_model(config) if card is None else model_on_card(config, find_card(card)))


def model_on_card(config: EngineConfig, card: Card) -> SimulatedModel:
    """Return a model as it would be on a card, in its own precision. Raises ModelError, OptionError or StartupError."""
    if config.quantization not in (Quantization.AUTO, Quantization.NONE):
        raise OptionError(
            f"--quantization is {config.quantization.value}; on a card, all weights count as dequantized; leave it out"
        )
    opened = open_simulated(config)
    compute = compute_by_torch(config)
    decoder, _ = assigned_decoder(opened, compute)
    layout = compute.cache_layout(opened.mixers)
    groups = kv_groups(layout, config.block_size)
    weight_bytes = decoder.weight_bytes()
    free_bytes = int(card.memory_bytes * config.gpu_memory_utilization) - weight_bytes
    if free_bytes <= 0:
        raise StartupError(
            f"the weights of {config.model} are {gib(weight_bytes)}, and {card.name} has {gib(card.memory_bytes)}; "
            "choose a smaller model or a larger card"
        )
    budget = plan_kv_budget(
        config,
        groups=groups,
        bytes_per_block=layout.block_bytes(config.block_size),
        bytes_per_state=layout.state_bytes,
        model_max_len=opened.max_position,
        free_bytes=free_bytes,
        default_bytes=free_bytes,
    )
    return SimulatedModel(
        model=config.model,
        hardware=card.name,
        source=card_source(card),
        work=decoder_work(decoder, layout, opened.vocab_size),
        kv_groups=groups,
        num_blocks=budget.num_blocks,
        num_states=budget.num_states,
        max_model_len=budget.max_model_len,
        is_gpu=True,
        weight_bytes=weight_bytes,
        kv_bytes=budget.kv_bytes,
    )


def open_simulated(config: EngineConfig) -> OpenedModel:
    """Open a model that is on this machine. Raises ModelError or StartupError if it is not, or cannot be simulated."""
    files = find_local(config.model)
    if files is None:
        raise StartupError(f"{config.model} is not on this machine; fetch it first: headrace pull {config.model}")
    opened = open_as_served(files, config)
    if not isinstance(opened, OpenedModel) or is_pooling_model(opened.spec, files.root):
        raise StartupError(f"{config.model} cannot be simulated: it is not a family of headrace's own that generates")
    return opened


def measured_model(config: EngineConfig) -> SimulatedModel:
    """Load a model and measure its steps on this machine. Raises ModelError, OptionError or StartupError."""
    report = stderr_lines()
    engine, info = build_engine(config, report)
    runner = engine._runner
    work = model_work(runner._model)  # type: ignore[attr-defined]
    if work is None:
        raise StartupError(f"{config.model} runs in transformers' code, whose steps cannot be simulated")
    report("measure steps", 0, 0, "")
    roofline = measure_roofline(engine, info, _roofline_config(info, runner.kv_groups))
    prefills = [_measured_step(each, 1) for each in roofline.results if each.name.startswith("prefill")]
    decodes = [_measured_step(each, each.num_tokens) for each in roofline.results if each.name.startswith("decode")]
    machine, date = roofline.machine, time.strftime("%Y-%m-%d", time.gmtime())
    return SimulatedModel(
        model=config.model,
        hardware="this machine",
        source=f"{machine.name}, {machine.threads} threads, {machine.read_bytes_per_s / 1e9:.1f} GB/s ({date})",
        work=work,
        kv_groups=runner.kv_groups,
        num_blocks=info.num_blocks,
        num_states=info.num_states,
        max_model_len=info.max_model_len,
        is_gpu=info.device != "cpu",
        weight_bytes=info.weight_bytes,
        kv_bytes=info.kv_bytes,
        measured=fit_times(prefills, decodes),
    )


def _roofline_config(info: EngineInfo, groups: tuple[KVGroup, ...]) -> RooflineConfig:
    """Return the lengths and batch sizes to measure: as many of the usual ones as fit the engine."""
    longest = info.max_model_len - 1
    prefills = tuple(each for each in _PREFILLS if each <= longest) or (longest,)
    context = max(1, min(_CONTEXT, longest // 4))
    # The first sequences of the batch decode in every step in which later ones' prompts are computed.
    most_tokens = min(4 * context + (2 * _NUM_STEPS + 1) * len(_BATCHES), longest)
    most = min(info.max_num_seqs, info.num_blocks // max(1, peak_blocks(groups, most_tokens)))
    most = min(most, info.num_states) if info.num_states else most
    num_sizes = max(1, (longest - context) // (4 * (2 * _NUM_STEPS + 1)))
    batches = tuple(each for each in _BATCHES[:num_sizes] if each <= most) or (1,)
    return RooflineConfig(prefills, batches, context, _NUM_STEPS, _NUM_ITERS)


def _measured_step(result: RooflineResult, num_sequences: int) -> MeasuredStep:
    """Return the parts of a measurement, scaled to its time without clocks."""
    scale = result.ms / 1e3 / (sum(each.ms for each in result.phases) or 1.0)
    attention = [each for each in result.phases if each.phase is Phase.ATTENTION]
    rows_ms = sum(each.ms for each in result.phases if each.phase in _OF_ROWS)
    attention_ms = sum(each.ms for each in attention)
    rest_ms = sum(each.ms for each in result.phases) - rows_ms - attention_ms
    return MeasuredStep(
        num_rows=result.num_tokens,
        num_sequences=num_sequences,
        rows_s=rows_ms * scale,
        sequences_s=rest_ms * scale,
        attention_s=attention_ms * scale,
        attention_bytes=sum(each.num_bytes for each in attention),
        attention_flops=sum(each.flops for each in attention),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
