"""Larger blocks of the KV cache than a server's, with which a simulation of long requests is quicker."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from engine.errors import OptionError
from engine.scheduling.kv.groups import peak_blocks
from engine.simulation.hardware import SimulatedModel
from engine.simulation.trace import TraceRequest

_MOST_TOKENS = 256  # of a block that is chosen
_MOST_LEFT_EMPTY = 0.01  # of the KV cache, beyond what the server's own blocks leave empty


def merge_blocks(
    model: SimulatedModel, trace: Sequence[TraceRequest], max_num_seqs: int, block_size: int | None
) -> SimulatedModel:
    """Return the model with a KV cache of the same size in blocks of `block_size` tokens.

    None chooses the largest blocks of up to 256 tokens that change little: no block of tokens that requests share is
    found in part, and at most 1 % of a full KV cache is left empty at the ends of requests. Windows and recurrent
    states keep the server's blocks. Raises OptionError for blocks that are not whole ones of the server, or too large.
    """
    own_size = model.block_size
    if block_size is None:
        chosen = takewhile(lambda factor: _changes_little(model, trace, max_num_seqs, factor), _doubles(own_size))
        return _merged(model, max(chosen, default=1))
    if block_size == own_size:
        return model
    given = f"--simulated-block-size is {block_size:,}"
    if not _can_merge(model):
        raise OptionError(f"{given}, and the model has windows or recurrent states, whose blocks stay; leave it out")
    factor, rest = divmod(block_size, own_size)
    if rest:
        raise OptionError(f"{given}; it must be a multiple of {own_size}, the tokens of a block of the server")
    if not _holds_longest(merged := _merged(model, factor)):
        raise OptionError(
            f"{given}, and a request of {model.max_model_len:,} tokens does not fit in {merged.num_blocks:,} such "
            "blocks; give fewer tokens"
        )
    return merged


def _doubles(block_size: int) -> Iterator[int]:
    factor = 2
    while factor * block_size <= _MOST_TOKENS:
        yield factor
        factor *= 2


def _merged(model: SimulatedModel, factor: int) -> SimulatedModel:
    groups = tuple(replace(group, block_size=group.block_size * factor) for group in model.kv_groups)
    return replace(model, kv_groups=groups, num_blocks=model.num_blocks // factor)


def _can_merge(model: SimulatedModel) -> bool:
    return all(group.is_full_attention for group in model.kv_groups)


def _holds_longest(model: SimulatedModel) -> bool:
    return peak_blocks(model.kv_groups, model.max_model_len) <= model.num_blocks


def _changes_little(model: SimulatedModel, trace: Sequence[TraceRequest], max_num_seqs: int, factor: int) -> bool:
    if not _can_merge(model) or not _holds_longest(_merged(model, factor)):
        return False
    size, own_size = model.block_size * factor, model.block_size
    mean_tokens = sum(each.num_prompt + each.num_output for each in trace) / len(trace)
    tokens_each = max(mean_tokens, model.kv_tokens / max_num_seqs)  # of a full KV cache, for each running request
    shared = {each.block_tokens for each in trace if each.block_ids}
    has_lost = any(num_tokens % size >= own_size for num_tokens in shared)
    return not has_lost and (size - own_size) / 2 <= _MOST_LEFT_EMPTY * tokens_each
