"""The text on which quality is measured, as token ids in chunks, and the steps in which each chunk is computed."""

from collections.abc import Sequence as Many
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
from models.attention.layer_groups import LayerGroup
from models.batch import ForwardBatch
from models.tokenizer.assets import TokenizerAssets

BLOCK_SIZE = 16
CHUNK = 512  # tokens, each chunk without what came before: memory and time of attention stay small
_SMALL_STEPS = 4  # the last 1/4 of a chunk is computed in steps of so many rows
_SMALL_SHARE = 4
_TEXT = Path(__file__).parent / "text.txt"


@dataclass(frozen=True, slots=True)
class Passages:
    """Chunks of token ids, each at least two tokens."""

    chunks: tuple[tuple[int, ...], ...]

    @property
    def targets(self) -> torch.Tensor:
        """The tokens to predict, [N] int64: all of each chunk but its first."""
        return torch.tensor([token for chunk in self.chunks for token in chunk[1:]])


def own_text() -> str:
    """The text that ships with the project: about 2,500 tokens of prose, code, tables and talk, written for it."""
    return _TEXT.read_text(encoding="utf-8")


def passages_of(text: str, assets: TokenizerAssets, max_position: int) -> Passages:
    """`text` in chunks of CHUNK tokens, or of the model's longest context; a last one of under two tokens is dropped.

    Where a plain prompt begins with BOS, so does each chunk.
    """
    tokenizer = Tokenizer.from_str(assets.tokenizer_json.decode())
    first = beginning(tokenizer, assets)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    size = max(1, min(CHUNK, max_position) - len(first))
    chunks = (tuple(first + ids[start : start + size]) for start in range(0, len(ids), size))
    return Passages(tuple(chunk for chunk in chunks if len(chunk) > 1))


def beginning(tokenizer: Tokenizer, assets: TokenizerAssets) -> list[int]:
    """What stands before every plain prompt: BOS, or nothing."""
    own = list(tokenizer.encode("").ids)
    if assets.add_bos_token and assets.bos_token_id is not None:
        own.insert(0, assets.bos_token_id)
    return own


def steps_of(tokens: Many[int], groups: Many[LayerGroup], device: torch.device) -> list[ForwardBatch]:
    """Batches that compute a text from its beginning: most of it in one step, the rest in steps of a few rows.

    Both matter, since kernels differ with the number of rows. Blocks are counted from 0, group after group.
    """
    of_engine = kv_groups(groups, BLOCK_SIZE)
    sequence = _sequence(tokens, of_engine)
    batches = []
    for num_new in step_lengths(len(tokens)):
        batches.append(build_batch(StepPlan([PlanItem(sequence, num_new, 0, needs_logits=True)]), of_engine, device))
        sequence.num_computed += num_new
    return batches


def together(texts: Many[Many[int]], groups: Many[LayerGroup], device: torch.device) -> ForwardBatch:
    """One step that computes several texts whole."""
    of_engine = kv_groups(groups, BLOCK_SIZE)
    items: list[PlanItem] = []
    first_block = 0
    for state, tokens in enumerate(texts):
        sequence = _sequence(tokens, of_engine, first_block, state)
        items.append(PlanItem(sequence, len(tokens), 0, needs_logits=True))
        first_block += len(groups) * -(-len(tokens) // BLOCK_SIZE)
    return build_batch(StepPlan(items), of_engine, device)


def _sequence(tokens: Many[int], groups: tuple[KVGroup, ...], first_block: int = 0, state: int = 0) -> Sequence:
    """A text of which nothing is computed, with blocks from `first_block` on, group after group."""
    request = EngineRequest(id="quality", prompt_ids=list(tokens), sampling=SamplingParams(max_tokens=1), arrival_s=0.0)
    tables = standalone_tables(groups, len(tokens), first_block, state)
    return Sequence(request=request, seed=0, tokens=list(tokens), num_prompt=len(tokens), tables=tables)


def step_lengths(num_tokens: int) -> list[int]:
    """Rows of each step of a text: one large step, then small ones."""
    num_small = num_tokens // _SMALL_SHARE // _SMALL_STEPS
    large = num_tokens - num_small * _SMALL_STEPS
    return [large, *[_SMALL_STEPS] * num_small]
