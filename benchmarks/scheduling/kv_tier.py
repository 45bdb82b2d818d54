"""Time to the first token of a long prompt: computed, from the KV cache, and from disk after its blocks were evicted.

    .venv/bin/python -m benchmarks.scheduling.kv_tier MODEL.gguf --tokens 8000

The files are likely to be in the system's memory; a slower disk adds its time.
"""

import argparse
import random
import sys
import tempfile
import time

from engine.config import EngineConfig
from engine.engine import Engine
from engine.protocol import EngineRequest, SamplingParams
from engine.startup.build import build_engine

_SPARE_TOKENS, _FIRST_ID, _LAST_ID = 64, 1000, 30_000


def first_token(engine: Engine, name: str, prompt_ids: list[int]) -> str:
    """Return the seconds until a prompt's first token, how many of its tokens were cached, and the token."""
    began_s = time.perf_counter()
    sampling = SamplingParams(max_tokens=1, temperature=0.0)
    engine.add(EngineRequest(id=name, prompt_ids=prompt_ids, sampling=sampling, arrival_s=0.0))
    while True:
        if not engine.has_work:
            engine.wait_for_prepared()
        for output in engine.step().outputs:
            seconds = time.perf_counter() - began_s
            return f"{seconds:.2f} s, {output.num_cached_tokens:,} tokens cached, next {output.new_ids}"


def evict(engine: Engine) -> None:
    """Evict all cached blocks, as other prompts would."""
    pool = engine._scheduler._kv.pool
    pool.free(pool.allocate(pool.num_free))
    engine.step()
    time.sleep(2)  # they are written beside the steps


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.scheduling.kv_tier", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kv-bytes", type=int, default=512 << 20, help="of the cache; a quarter must hold the prompt")
    options = parser.parse_args()
    prompt_ids = random.Random(0).choices(range(_FIRST_ID, _LAST_ID), k=options.tokens)
    with tempfile.TemporaryDirectory() as folder:
        config = EngineConfig(
            model=options.model,
            max_model_len=options.tokens + _SPARE_TOKENS,
            threads=1,
            kv_cache_memory_bytes=options.kv_bytes,
            kv_offload_dir=folder,
        )
        engine, _ = build_engine(config, lambda *_: None)
        sys.stdout.write(f"computed: {first_token(engine, 'first', prompt_ids)}\n")
        sys.stdout.write(f"from the KV cache: {first_token(engine, 'again', prompt_ids)}\n")
        for number in range(options.rounds):
            evict(engine)
            sys.stdout.write(f"from disk: {first_token(engine, str(number), prompt_ids)}\n")
        engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
