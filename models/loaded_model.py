"""LoadedModel: what loading gives the engine, and how it reports progress."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from models.attention.base import AttentionBackend, AttentionSpec
from models.attention.layer_groups import LayerGroup
from models.spec import RecurrenceSpec

# (stage, done, total, unit): total 0 where unknown; unit "B" for bytes.
ProgressReport = Callable[[str, int, int, str], None]


@dataclass(frozen=True, slots=True)
class TokenizerAssets:
    """A checkpoint's tokenizer as `tokenizers` JSON and what chat templates need, whatever format it came in."""

    tokenizer_json: bytes
    chat_template: str | None
    special_tokens: dict[str, str]  # bos_token, eos_token, pad_token, unk_token where the checkpoint has them
    bos_token_id: int | None
    eos_token_ids: list[int]  # of config, generation_config and tokenizer together
    add_bos_token: bool  # a plain prompt gets a BOS in front (the post-processor does not add one itself)


@dataclass(frozen=True, slots=True)
class HeldWeights:
    """What a decoder's weights are held as: number of tensors by format, and a line for the operator."""

    formats: Counter[str]
    note: str
    mapped_bytes: int = 0  # of a file that later starts map too, which the system's free memory has included


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run. `decoder` is the torch module; the rest is what the engine plans with."""

    # forward(batch, kv) -> hidden [T, hidden]; logits(hidden [L, hidden]) -> [L, V] fp32; serve_context(length) before
    decoder: "torch.nn.Module"
    architecture: str
    dtype: torch.dtype
    device: torch.device
    vocab_size: int  # width of the output layer
    max_position: int  # longest context the checkpoint claims
    mixers: Sequence[AttentionSpec | RecurrenceSpec]  # one a layer
    layer_groups: tuple[LayerGroup, ...]
    attention_backend: AttentionBackend
    weight_bytes: int
    tokenizer: TokenizerAssets
    generation_defaults: dict[str, float]  # temperature, top_p, top_k, min_p, repetition_penalty where given
    notes: list[str] = field(default_factory=list)
    weight_formats: dict[str, int] = field(default_factory=dict)  # what weights are held as: number of tensors
    mapped_bytes: int = 0  # as in HeldWeights
