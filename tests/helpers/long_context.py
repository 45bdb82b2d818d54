"""`python -m tests.helpers.long_context FOLDER LENGTH...`: serves prompts of these lengths, and tells the memory taken.

A process of its own, so that the peak of its memory is the engine's.
"""

import json
import random
import sys

from engine.config import Device, DType, EngineConfig
from engine.protocol import EngineRequest, SamplingParams
from engine.startup.build import build_engine

CHUNK = 512


def long_prompt(length: int, vocab_size: int) -> list[int]:
    return random.Random(5).choices(range(vocab_size), k=length)


def serve(folder: str, lengths: list[int]) -> dict[str, object]:
    """Log probabilities [V] of what follows the first LENGTH tokens of one prompt, for each length, shortest first.

    The prefix cache spares computing a token twice. `grown_bytes`: peak memory beyond that of the engine at rest.
    """
    config = EngineConfig(
        model=folder,
        dtype=DType.FLOAT32,
        device=Device.CPU,
        max_model_len=max(lengths) + 1,
        max_num_seqs=1,
        max_num_batched_tokens=CHUNK,
    )
    engine, info = build_engine(config, lambda *_: None)
    prompt = long_prompt(max(lengths), info.vocab_size)
    sampling = SamplingParams(max_tokens=1, temperature=0.0, logprobs=info.vocab_size)
    at_rest = _peak_bytes()
    logprobs = []
    for length in sorted(lengths):
        engine.add(EngineRequest(id=str(length), prompt_ids=prompt[:length], sampling=sampling, arrival_s=0.0))
        while engine.has_work:
            for output in engine.step().outputs:
                assert output.error is None, output.error
                for token in output.logprobs or ():
                    logprobs.append([logprob for _, logprob in sorted(token.top)])
    return {"logprobs": logprobs, "grown_bytes": _peak_bytes() - at_rest, "kv_bytes": info.kv_bytes}


def _peak_bytes() -> int:
    """Most memory that this process held. Not getrusage's: that may be the parent's, from before exec."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps(serve(sys.argv[1], [int(length) for length in sys.argv[2:]])))
