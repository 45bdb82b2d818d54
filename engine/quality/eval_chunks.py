"""EvalChunks: the text on which quality is measured, as chunks of token ids, and the steps that compute them."""

from collections import abc
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from engine.protocol import EngineRequest, SamplingParams
from engine.runner.batch_builder import build_batch
from engine.runner.kv_groups import kv_groups
from engine.scheduling.kv.groups import KVGroup, standalone_tables
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.sequence import Sequence
from models.batch import ForwardBatch
from models.kv.groups import LayerGroup
from models.tokenizer.assets import TokenizerAssets

BLOCK_SIZE = 16
CHUNK_LEN = 512  # tokens; chunks do not see each other, so that memory and time of attention stay small
_SMALL_STEP_ROWS = 4
_SMALL_STEPS_SHARE = 4  # the last 1/4 of a chunk is computed in small steps
_TEXT = Path(__file__).parent / "text.txt"


@dataclass(frozen=True, slots=True)
class EvalChunks:
    """Chunks of at least two token ids each."""

    chunks: tuple[tuple[int, ...], ...]

    @property
    def targets(self) -> torch.Tensor:
        """The tokens to predict, [N] int64: all tokens of each chunk but the first."""
        return torch.tensor([token for chunk in self.chunks for token in chunk[1:]])


def builtin_text() -> str:
    """Return the text that ships with the project: about 2,500 tokens of prose, code, tables and talk."""
    return _TEXT.read_text(encoding="utf-8")


def split_into_chunks(text: str, assets: TokenizerAssets, max_position: int) -> EvalChunks:
    """Split `text` into chunks of CHUNK_LEN tokens, or of the model's context if that is shorter.

    If a plain prompt begins with BOS, each chunk does too. A last chunk of one token is dropped.
    """
    tokenizer = Tokenizer.from_str(assets.tokenizer_json.decode())
    prefix = bos_prefix(tokenizer, assets)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    size = max(1, min(CHUNK_LEN, max_position) - len(prefix))
    chunks = (tuple(prefix + ids[start : start + size]) for start in range(0, len(ids), size))
    return EvalChunks(tuple(chunk for chunk in chunks if len(chunk) > 1))


def bos_prefix(tokenizer: Tokenizer, assets: TokenizerAssets) -> list[int]:
    """Return the ids before every plain prompt: BOS, or none."""
    prefix = list(tokenizer.encode("").ids)
    if assets.add_bos_token and assets.bos_token_id is not None:
        prefix.insert(0, assets.bos_token_id)
    return prefix


def step_batches(
    tokens: abc.Sequence[int], groups: abc.Sequence[LayerGroup], device: torch.device
) -> list[ForwardBatch]:
    """Return batches that compute a chunk: most of it in one step, the rest in steps of a few rows.

    Both matter, since kernels differ with the number of rows. Blocks are counted from 0, group after group.
    """
    engine_groups = kv_groups(groups, BLOCK_SIZE)
    sequence = _sequence(tokens, engine_groups)
    batches = []
    start = 0
    for num_new in step_lengths(len(tokens)):
        item = PlanItem(sequence, start, num_new, 0, needs_logits=True)
        batches.append(build_batch(StepPlan([item]), engine_groups, device))
        start += num_new
    return batches


def joint_batch(
    chunks: abc.Sequence[abc.Sequence[int]], groups: abc.Sequence[LayerGroup], device: torch.device
) -> ForwardBatch:
    """Return the batch of one step that computes several chunks completely."""
    engine_groups = kv_groups(groups, BLOCK_SIZE)
    items: list[PlanItem] = []
    first_block = 0
    for state, tokens in enumerate(chunks):
        sequence = _sequence(tokens, engine_groups, first_block, state)
        items.append(PlanItem(sequence, 0, len(tokens), 0, needs_logits=True))
        first_block += len(groups) * -(-len(tokens) // BLOCK_SIZE)
    return build_batch(StepPlan(items), engine_groups, device)


def _sequence(tokens: abc.Sequence[int], groups: tuple[KVGroup, ...], first_block: int = 0, state: int = 0) -> Sequence:
    """Make a sequence without computed tokens, with blocks from `first_block` on, group after group."""
    request = EngineRequest(id="quality", prompt_ids=list(tokens), sampling=SamplingParams(max_tokens=1), arrival_s=0.0)
    tables = standalone_tables(groups, len(tokens), first_block, state)
    return Sequence(request=request, seed=0, tokens=list(tokens), num_prompt=len(tokens), tables=tables)


def step_lengths(num_tokens: int) -> list[int]:
    """Return the rows of each step of a chunk: one large step, then small ones."""
    num_small = num_tokens // _SMALL_STEPS_SHARE // _SMALL_STEP_ROWS
    large = num_tokens - num_small * _SMALL_STEP_ROWS
    return [large, *[_SMALL_STEP_ROWS] * num_small]
