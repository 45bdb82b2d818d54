"""EvalChunks: the evaluation text as chunks of token ids."""

from pathlib import Path

import torch
from tokenizers import Tokenizer

from models.tokenizer.assets import TokenizerAssets

CHUNK_LEN = 512  # tokens; chunks do not see each other, so that memory and time of attention stay small
_TEXT = Path(__file__).parent / "text.txt"

EvalChunks = tuple[tuple[int, ...], ...]  # of at least two token ids each


def chunk_targets(chunks: EvalChunks) -> torch.Tensor:
    """Return the tokens to predict, [N] int64: every token of each chunk except its first."""
    return torch.tensor([token for chunk in chunks for token in chunk[1:]])


def builtin_text() -> str:
    """Return the built-in evaluation text: about 2,500 tokens of prose, code, tables and dialogue."""
    return _TEXT.read_text(encoding="utf-8")


def split_into_chunks(text: str, assets: TokenizerAssets, max_position: int) -> EvalChunks:
    """Split `text` into chunks of CHUNK_LEN tokens, or of the model's context length if that is shorter.

    Each chunk begins with BOS if plain prompts do. A last chunk of one token is dropped.
    """
    tokenizer = Tokenizer.from_str(assets.tokenizer_json.decode())
    prefix = bos_prefix(tokenizer, assets)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    size = max(1, min(CHUNK_LEN, max_position) - len(prefix))
    chunks = (tuple(prefix + ids[start : start + size]) for start in range(0, len(ids), size))
    return tuple(chunk for chunk in chunks if len(chunk) > 1)


def bos_prefix(tokenizer: Tokenizer, assets: TokenizerAssets) -> list[int]:
    """Return the token ids that precede every plain prompt: BOS, or none."""
    prefix = list(tokenizer.encode("").ids)
    if assets.add_bos_token and assets.bos_token_id is not None:
        prefix.insert(0, assets.bos_token_id)
    return prefix
