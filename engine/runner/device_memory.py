"""measure_device: the memory of a CUDA device that a KV cache may take, found by computing the largest steps."""

import gc
import math
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch

from engine.config import EngineConfig
from engine.errors import StartupError
from engine.protocol import EngineRequest, SamplingParams
from engine.runner.kv_budget import format_bytes
from engine.runner.runner import TorchRunner
from engine.scheduling.kv.groups import KVGroup, standalone_tables
from engine.scheduling.plan import PlanItem, StepPlan, run_step
from engine.scheduling.sequence import Sequence
from models.loaded_model import LoadedModel
from models.system import cuda
from models.system.cuda_graphs import graphs_of

_NUM_TOP = 20  # log probabilities of each row, the most that a request may ask for


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A device's memory in bytes. peak_bytes: of this process in its largest step, with weights, without KV cache.
    other_bytes: of other processes, of CUDA itself, and of libraries."""

    total_bytes: int
    other_bytes: int
    peak_bytes: int

    @property
    def free_bytes(self) -> int:
        """The most that a KV cache could take."""
        return max(0, self.total_bytes - self.other_bytes - self.peak_bytes)

    def kv_bytes(self, utilization: float) -> int:
        """Return what --gpu-memory-utilization leaves for the KV cache. Raises StartupError if that is nothing."""
        left = math.floor(self.total_bytes * utilization) - self.other_bytes - self.peak_bytes
        if left <= 0:
            raise StartupError(
                f"--gpu-memory-utilization {utilization:g} of {format_bytes(self.total_bytes)} leaves nothing for the "
                f"KV cache: weights and a full step take {format_bytes(self.peak_bytes)}, and other processes and CUDA "
                f"{format_bytes(self.other_bytes)}; end other processes, quantize (--quantization fp8), lower "
                "--max-num-batched-tokens or --max-num-seqs, or raise the share"
            )
        return left

    def describe(self, device: torch.device) -> str:
        """Return the start-up line about the device's memory."""
        return (
            f"Device memory: {format_bytes(self.total_bytes)} on {device}; weights and the largest step take "
            f"{format_bytes(self.peak_bytes)}, others {format_bytes(self.other_bytes)}"
        )


def measure_device(
    config: EngineConfig, model: LoadedModel, groups: tuple[KVGroup, ...], max_tokens: int
) -> DeviceMemory:
    """Compute the largest steps, and measure the device. max_tokens: of a step."""
    peak = measure_peak(
        model, groups, block_size=config.block_size, max_tokens=max_tokens, max_num_seqs=config.max_num_seqs
    )
    free, total = cuda.memory_bytes(model.device)
    _, own = cuda.peak_bytes(model.device)
    return DeviceMemory(total, other_bytes=max(0, total - free - own), peak_bytes=peak)


def measure_peak(
    model: LoadedModel, groups: tuple[KVGroup, ...], *, block_size: int, max_tokens: int, max_num_seqs: int
) -> int:
    """Return the most bytes that this process's tensors take in a step without KV cache and states; with the weights.

    Computes two steps over a pool just large enough: prompts of `max_tokens` tokens together, as few as the longest
    context allows, and one token of each of `max_num_seqs` sequences. They share blocks: what they compute means
    nothing. Graphs keep memory that no other step may use; the largest graph's counts, as smaller ones share it. If
    `max_num_seqs` is more than that graph's rows, a third step captures it.
    """
    longest = min(max_tokens, model.max_position)
    tables = standalone_tables(groups, longest)
    num_blocks = sum(len(table) for group, table in zip(groups, tables, strict=True) if not group.is_state)
    num_states = int(any(group.is_state for group in groups))
    cuda.reset_peak(model.device)
    graphs = graphs_of(model.device)
    runner = TorchRunner(model, num_blocks=num_blocks, block_size=block_size, num_states=num_states, graphs=graphs)
    pool_bytes = num_blocks * model.cache_layout.block_bytes(block_size) + num_states * model.cache_layout.state_bytes
    plans = full_steps(groups, max_tokens, longest, max_num_seqs)
    if (captured := max(runner.decode_sizes(max_num_seqs), default=max_num_seqs)) < max_num_seqs:
        plans = *plans, _plan("peak-graph", groups, [1] * captured)
    for plan in plans:
        run_step(runner, plan)
        for item in plan.items:
            runner.release(item.sequence)
    peak, _ = cuda.peak_bytes(model.device)
    runner.end_warm_up()
    del runner
    gc.collect()  # modules refer to one another
    cuda.reset_peak(model.device)
    return peak - pool_bytes + (0 if graphs is None else graphs.pool_bytes)


def full_steps(groups: tuple[KVGroup, ...], num_tokens: int, longest: int, num_sequences: int) -> tuple[StepPlan, ...]:
    """Return the plans of `num_tokens` tokens of prompts of up to `longest`, and of a token of each of `num_sequences`
    sequences that sample, have penalties and want log probabilities."""
    sizes = [min(longest, num_tokens - start) for start in range(0, num_tokens, longest)][:num_sequences]
    return _plan("peak-prompt", groups, sizes), _plan("peak", groups, [1] * num_sequences)


def _plan(name: str, groups: tuple[KVGroup, ...], sizes: SequenceOf[int]) -> StepPlan:
    sequences = [_sequence(f"{name}-{number}", groups, size) for number, size in enumerate(sizes)]
    return StepPlan([PlanItem(each, 0, each.num_prompt, num_draft=0, needs_logits=True) for each in sequences])


def _sequence(name: str, groups: tuple[KVGroup, ...], num_tokens: int) -> Sequence:
    sampling = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.9, frequency_penalty=1.0, logprobs=_NUM_TOP)
    tokens = [0] * num_tokens
    request = EngineRequest(id=name, prompt_ids=tokens, sampling=sampling, arrival_s=0.0)
    tables = standalone_tables(groups, num_tokens)
    return Sequence(request=request, seed=0, tokens=tokens, num_prompt=num_tokens, tables=tables)
