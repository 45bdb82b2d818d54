"""Short builders of requests, configs and ledger engines."""

from engine.config import EngineConfig, SchedulingPolicy
from engine.engine import Engine
from engine.protocol import EngineRequest, SamplingParams
from tests.helpers.ledger import EOS_ID, VOCAB_SIZE, LedgerRunner, next_token


def make_request(
    id: str,
    prompt: list[int],
    *,
    max_tokens: int = 8,
    seed: int = 0,
    priority: int = 0,
    arrival_s: float = 0.0,
    cache_salt: str = "",
    **sampling: object,
) -> EngineRequest:
    params = SamplingParams(max_tokens=max_tokens, seed=seed, **sampling)  # type: ignore[arg-type]
    return EngineRequest(
        id=id, prompt_ids=prompt, sampling=params, arrival_s=arrival_s, priority=priority, cache_salt=cache_salt
    )


def make_prompt(length: int, seed: int = 0) -> list[int]:
    """A reproducible prompt; two seeds share no prefix worth the name."""
    prompt: list[int] = []
    while len(prompt) < length:
        prompt.append(next_token([*prompt[-8:], len(prompt)], seed + 1_000_003) % (VOCAB_SIZE - 1) + 1)
    return prompt


def make_engine(
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    max_num_seqs: int = 64,
    max_num_batched_tokens: int = 64,
    max_model_len: int | None = None,
    policy: SchedulingPolicy = SchedulingPolicy.FCFS,
    enable_prefix_caching: bool = True,
    long_prefill_token_threshold: int = 0,
) -> tuple[Engine, LedgerRunner]:
    """An engine over a ledger, which checks all invariants after each step."""
    config = EngineConfig(
        max_model_len=max_model_len or num_blocks * block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        long_prefill_token_threshold=long_prefill_token_threshold,
        scheduling_policy=policy,
        block_size=block_size,
        enable_prefix_caching=enable_prefix_caching,
        check_invariants=True,
    )
    runner = LedgerRunner(num_blocks, block_size)
    return Engine(config, runner, num_blocks=num_blocks, eos_token_ids=[EOS_ID]), runner


def expected_ids(request: EngineRequest) -> list[int]:
    """The tokens that a request must get under every schedule, worked out without an engine."""
    sampling = request.sampling
    history = list(request.prompt_ids)
    output: list[int] = []
    stop_ids = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else (EOS_ID,))}
    while len(output) < sampling.max_tokens:
        output.append(next_token(history + output, sampling.seed or 0))
        if output[-1] in stop_ids and len(output) > sampling.min_tokens:
            break
    return output
