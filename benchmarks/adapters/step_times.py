"""Cost of adapters: a step with them against the same step without, for decoding and for a prompt.

    .venv/bin/python -m benchmarks.adapters.step_times MODEL.gguf
    .venv/bin/python -m benchmarks.adapters.step_times MODEL.gguf --threads 1 --clock cpu   # on a busy machine
    .venv/bin/python -m benchmarks.adapters.step_times MODEL.gguf --unused   # the cost for steps without adapters

Random adapters change every linear layer except the output layer. The steps of one kind are measured in turns, and the
ratio is the median of the turns' ratios. `--clock cpu` is processor time of all threads, including the time they wait
for each other. With `--unused` no step has an adapter: an engine with adapters is compared with one without.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence

import torch

from engine.config import EngineConfig
from engine.protocol import EngineRequest, SamplingParams
from engine.runner.runner import TorchRunner
from engine.scheduling.kv.groups import standalone_tables
from engine.scheduling.plan import PlanItem, StepPlan, run_step
from engine.scheduling.sequence import Sequence as EngineSequence
from engine.startup.build import build_engine
from models.decoder import Decoder
from models.linear.adapters.adapter import Adapter, LayerAdapter, LowRankPair

_CONTEXT, _PROMPT, _KV_BYTES = 64, 256, 1 << 28
_RANKS = (8, 32, 64)
_NUM_SAME_RANK, _USUAL_RANK = 8, 16
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def random_adapter(decoder: Decoder, rank: int, seed: int) -> Adapter:
    """Return an adapter with a pair for every shard of the decoder layers' linear layers."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name, layer in decoder.adapted_layers().items():
        if name == "head":
            continue
        pairs = []
        for shard in [*layer.shards] or [None]:
            first, count = layer.rows(shard)
            a = (torch.randn(rank, layer.in_features, generator=generator) * layer.in_features**-0.5).bfloat16()
            pairs.append(LowRankPair(first, a, torch.randn(count, rank, generator=generator).bfloat16(), 0.01))
        layers[name] = LayerAdapter(tuple(pairs))
    num_bytes = sum(tensor.nbytes for layer in layers.values() for tensor in layer.tensors())
    return Adapter(seed.to_bytes(32, "little"), rank, rank, (), num_bytes, "", layers)


def _item(runner: TorchRunner, index: int, position: int, num_new: int, slot: int) -> PlanItem:
    tokens = [5 + index] * (position + num_new)
    request = EngineRequest(
        id=str(index), prompt_ids=tokens, sampling=SamplingParams(max_tokens=1, temperature=0.0), arrival_s=0.0
    )
    tables = standalone_tables(runner.kv_groups, len(tokens), index * (-(-len(tokens) // 16) + 1))
    sequence = EngineSequence(request=request, seed=0, tokens=tokens, num_prompt=len(tokens), tables=tables)
    sequence.adapter_slot = slot
    return PlanItem(sequence, position, num_new, 0, needs_logits=True)


def decode_plan(runner: TorchRunner, slots: Sequence[int]) -> StepPlan:
    return StepPlan([_item(runner, index, _CONTEXT, 1, slot) for index, slot in enumerate(slots)])


# A runner, and the step that it runs.
Step = tuple[TorchRunner, StepPlan]


def ratios(steps: Mapping[str, Step], clock: str, num_rounds: int) -> tuple[float, dict[str, float]]:
    """Return the milliseconds of the first step, and the others' times relative to it."""
    now = _CLOCKS[clock]
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(num_rounds + 2):
        for name, (runner, plan) in steps.items():
            began_s = now()
            run_step(runner, plan)
            if number >= 2:  # the first rounds record tapes
                times[name].append(now() - began_s)
    first, *others = times
    relative = {
        name: statistics.median(own / base for own, base in zip(times[name], times[first], strict=True))
        for name in others
    }
    return statistics.median(times[first]) * 1000, relative


def _runner(options: argparse.Namespace) -> TorchRunner:
    threads = {} if options.threads is None else {"threads": options.threads}
    config = EngineConfig(model=options.model, kv_cache_memory_bytes=_KV_BYTES, max_model_len=512, **threads)
    engine, _ = build_engine(config, lambda *_: None)
    runner = engine._runner
    assert isinstance(runner, TorchRunner)
    return runner


def _fill_slots(runner: TorchRunner) -> dict[int, int]:
    """Fill the first slots with adapters of the usual rank; return the slots of the other ranks, by rank."""
    decoder = runner.decoder
    slot_of_rank = {rank: _NUM_SAME_RANK + index for index, rank in enumerate(_RANKS)}
    decoder.enable_adapters(_NUM_SAME_RANK + len(_RANKS), max(_RANKS))
    for slot in range(_NUM_SAME_RANK):
        decoder.set_adapter(slot, decoder.prepare_adapter(random_adapter(decoder, _USUAL_RANK, slot)))
    for rank, slot in slot_of_rank.items():
        decoder.set_adapter(slot, decoder.prepare_adapter(random_adapter(decoder, rank, slot)))
    return slot_of_rank


def prompt_plan(runner: TorchRunner, slot: int) -> StepPlan:
    return StepPlan([_item(runner, 0, 0, _PROMPT, slot)])


def _with_adapters(runner: TorchRunner, slot_of_rank: Mapping[int, int]) -> dict[str, dict[str, Step]]:
    single = {"no adapter": [-1], "r 8": [slot_of_rank[8]], "r 16": [0]}
    single |= {f"r {rank}": [slot_of_rank[rank]] for rank in (32, 64)}
    eight = {
        "no adapter": [-1] * 8,
        "one adapter, r 16": [0] * 8,
        "half of the rows, r 16": [0, -1] * 4,
        "8 different, r 16": list(range(8)),
        "one adapter, r 64": [slot_of_rank[64]] * 8,
    }
    prompt = {"no adapter": -1, "r 16": 0, "r 64": slot_of_rank[64]}
    return {
        "decode step, 1 sequence": {name: (runner, decode_plan(runner, slots)) for name, slots in single.items()},
        "decode step, 8 sequences": {name: (runner, decode_plan(runner, slots)) for name, slots in eight.items()},
        f"prompt of {_PROMPT} tokens": {name: (runner, prompt_plan(runner, slot)) for name, slot in prompt.items()},
    }


def _unused(without: TorchRunner, runner: TorchRunner) -> dict[str, dict[str, Step]]:
    runners = {"without adapters": without, "with adapters that no row uses": runner}
    return {
        "decode step, 1 sequence": {name: (each, decode_plan(each, [-1])) for name, each in runners.items()},
        "decode step, 8 sequences": {name: (each, decode_plan(each, [-1] * 8)) for name, each in runners.items()},
        f"prompt of {_PROMPT} tokens": {name: (each, prompt_plan(each, -1)) for name, each in runners.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.adapters.step_times", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=None, help="by default as many as there are cores")
    parser.add_argument("--clock", choices=_CLOCKS, default="wall")
    parser.add_argument("--rounds", type=int, default=60, help="of decode steps; a fifth of it of prompts")
    parser.add_argument("--unused", action="store_true", help="compare an engine with adapters and one without")
    options = parser.parse_args()
    runner = _runner(options)
    slot_of_rank = _fill_slots(runner)
    groups = _unused(_runner(options), runner) if options.unused else _with_adapters(runner, slot_of_rank)
    for title, steps in groups.items():
        num_rounds = options.rounds if "decode" in title else max(3, options.rounds // 5)
        base_ms, relative = ratios(steps, options.clock, num_rounds)
        listed = ", ".join(f"{name} x{ratio:.3f}" for name, ratio in relative.items())
        sys.stdout.write(f"{title}: {base_ms:.2f} ms without adapters; {listed}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
