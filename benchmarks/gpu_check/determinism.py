"""Stage "determinism": the same tokens alone and beside others with --deterministic, and what it costs."""

from collections.abc import Iterator, Sequence

from benchmarks.gpu_check.figures import Figure
from benchmarks.gpu_check.random_models import random_engine
from benchmarks.gpu_check.stages import Context
from benchmarks.gpu_check.throughput import decode_step_s
from engine.commands.bench.drive import RequestMaker
from engine.engine import Engine
from engine.errors import StartupError
from engine.protocol import EngineRequest

_LENGTHS = [3, 40, 200, 77, 16, 129]


def determinism(context: Context) -> Iterator[Figure]:
    model, steps = "Qwen3-0.6B", {}
    for is_deterministic in (False, True):
        try:
            with random_engine(context, model, deterministic=is_deterministic) as (engine, info):
                maker = RequestMaker(info.vocab_size, seed=0)
                prompts = [maker.ids(length) for length in _LENGTHS]
                alone = [_tokens(engine, maker, [prompt])[0] for prompt in prompts]
                together = _tokens(engine, maker, prompts * (1 if context.is_tiny else 20))[: len(prompts)]
                same = sum(one == other for one, other in zip(alone, together, strict=True)) / len(prompts)
                name = "deterministic" if is_deterministic else "default"
                limit = 1.0 if is_deterministic else None
                yield Figure(f"{name}: answers that are the same beside others", same, limit=limit)
                steps[is_deterministic] = decode_step_s(
                    engine, maker, 4 if context.is_tiny else 32, is_tiny=context.is_tiny
                )
        except StartupError as error:
            yield Figure("deterministic", None, note=f"refused: {error}"[:300])
    if len(steps) == 2:
        yield Figure("step, of the default's", steps[True] / steps[False], "times")


def _tokens(engine: Engine, maker: RequestMaker, prompts: Sequence[list[int]]) -> list[list[int]]:
    """Return the tokens of greedy answers that are computed together."""
    requests: list[EngineRequest] = [maker.request(prompt, 24) for prompt in prompts]
    tokens: dict[str, list[int]] = {request.id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for output in engine.step().outputs:
            tokens[output.id] += output.new_ids
    return list(tokens.values())
