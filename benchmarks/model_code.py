"""Times of steps in transformers' code over the family's, for decoding and for a prompt.

    .venv/bin/python -m benchmarks.model_code FOLDER                          # safetensors
    .venv/bin/python -m benchmarks.model_code FOLDER --quantization int4 --threads 1

Both engines are in one process, and the steps of one kind are measured in turns. The ratio is the family's time over
that of transformers' code, by the median of the turns' ratios.
"""

import argparse
import sys

from benchmarks.adapters.step_times import Step, decode_plan, prompt_plan, ratios
from engine.config import EngineConfig, ModelImpl, Quantization
from engine.runner.runner import TorchRunner
from engine.startup.build import build_engine

_KV_BYTES = 1 << 28


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a folder in Hugging Face layout whose architecture has a family")
    parser.add_argument(
        "--quantization", default=Quantization.AUTO.value, choices=[each.value for each in Quantization]
    )
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    family, foreign = (_runner(options, kind) for kind in (ModelImpl.HEADRACE, ModelImpl.TRANSFORMERS))
    plans = {
        "decode step, 1 sequence": lambda runner: decode_plan(runner, [-1]),
        "decode step, 8 sequences": lambda runner: decode_plan(runner, [-1] * 8),
        "prompt of 256 tokens": lambda runner: prompt_plan(runner, -1),
    }
    sys.stdout.write("| step | family, ms | speed of transformers' code, relative |\n| --- | --- | --- |\n")
    for name, plan in plans.items():
        steps: dict[str, Step] = {"family": (family, plan(family)), "transformers": (foreign, plan(foreign))}
        family_ms, relative = ratios(steps, "wall", options.rounds)
        sys.stdout.write(f"| {name} | {family_ms:.1f} | {1 / relative['transformers']:.2f} |\n")
        sys.stdout.flush()
    return 0


def _runner(options: argparse.Namespace, implementation: ModelImpl) -> TorchRunner:
    threads = {} if options.threads is None else {"threads": options.threads}
    config = EngineConfig(
        model=options.model,
        model_impl=implementation,
        quantization=Quantization(options.quantization),
        kv_cache_memory_bytes=_KV_BYTES,
        max_model_len=512,
        **threads,
    )
    engine, _ = build_engine(config, lambda *_: None)
    runner = engine._runner
    assert isinstance(runner, TorchRunner)
    return runner


if __name__ == "__main__":
    sys.exit(main())
