"""SchedulerConfig: the scheduler's options, with the sizes of the model and the cache."""

from dataclasses import dataclass

from engine.config import EngineConfig, SchedulingPolicy
from engine.errors import ContextLengthExceeded, InvalidRequest
from engine.protocol import EngineRequest
from engine.scheduling.kv.groups import KVGroup, peak_blocks, prefix_unit


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Scheduling options of EngineConfig with all defaults resolved, and the sizes of the KV pools."""

    num_blocks: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_groups: tuple[KVGroup, ...]
    num_states: int = 0  # recurrent states, for a KV group of recurrent layers
    long_prefill_token_threshold: int = 0  # 0 is no limit
    scheduling_policy: SchedulingPolicy = SchedulingPolicy.FCFS
    enable_prefix_caching: bool = True
    num_adapter_slots: int = 0
    eos_token_ids: frozenset[int] = frozenset()
    kv_pin_fraction: float = 0.25
    copies_blocks: bool = False  # the runner can copy blocks
    records_block_events: bool = False

    def __post_init__(self) -> None:
        needed = peak_blocks(self.kv_groups, self.max_model_len)
        assert needed <= self.num_blocks, "a sequence of max_model_len must fit the pool"
        assert self.num_states or not any(group.is_state for group in self.kv_groups)
        assert self.max_num_seqs >= 1
        assert self.max_num_batched_tokens >= 1

    @property
    def prefix_unit(self) -> int:
        """Tokens of the units in which prefixes are cached."""
        return prefix_unit(self.kv_groups)

    @property
    def max_pinned_blocks(self) -> int:
        """Most blocks that pins may hold: a share of the cache, and no more than leave room for the longest request, so
        that a request which fits an empty cache always fits beside the pins."""
        num_left = self.num_blocks - peak_blocks(self.kv_groups, self.max_model_len)
        return min(int(self.num_blocks * self.kv_pin_fraction), num_left)

    @classmethod
    def from_engine_config(
        cls,
        config: EngineConfig,
        *,
        num_blocks: int,
        num_states: int,
        kv_groups: tuple[KVGroup, ...],
        eos_token_ids: list[int],
        copies_blocks: bool = False,
    ) -> "SchedulerConfig":
        """Take the options from a config whose None values have been resolved at startup."""
        assert config.max_model_len is not None
        assert config.max_num_batched_tokens is not None
        return cls(
            num_blocks=num_blocks,
            num_states=num_states,
            kv_groups=kv_groups,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            long_prefill_token_threshold=config.long_prefill_token_threshold,
            scheduling_policy=config.scheduling_policy,
            enable_prefix_caching=config.enable_prefix_caching,
            num_adapter_slots=config.max_loras if config.enable_lora else 0,
            eos_token_ids=frozenset(eos_token_ids),
            kv_pin_fraction=config.kv_pin_fraction,
            copies_blocks=copies_blocks,
            records_block_events=config.kv_events is not None,
        )

    def check_length(self, request: EngineRequest) -> None:
        """Raise InvalidRequest if the prompt, the requested output or the prediction can never fit the context."""
        num_prompt, max_tokens = len(request.prompt_ids), request.sampling.max_tokens
        if num_prompt == 0:
            raise InvalidRequest("the prompt has no tokens; send at least one", param="prompt")
        if num_prompt + max_tokens > self.max_model_len:
            raise ContextLengthExceeded(
                f"the prompt has {num_prompt:,} tokens and max_tokens is {max_tokens:,}; together they may be at most "
                f"{self.max_model_len:,}; shorten the prompt or lower max_tokens",
                param="prompt" if num_prompt > self.max_model_len else "max_tokens",
            )
        if len(request.prediction_ids) > self.max_model_len:
            raise InvalidRequest(
                f"the prediction has {len(request.prediction_ids):,} tokens; an answer can have at most "
                f"{self.max_model_len:,}; shorten it",
                param="prediction",
            )
