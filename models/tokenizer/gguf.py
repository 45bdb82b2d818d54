"""Conversion of GGUF vocabularies to a `tokenizers` tokenizer that gives the same ids as llama.cpp.

There are these kinds (tokenizer.ggml.model): "gpt2", BPE with merges and a named pre-tokenizer (tokenizer.ggml.pre),
mostly of bytes; "gemma4" and "whitespace", BPE of characters with merges; "llama", SentencePiece BPE with a score for
each token; "bert", WordPiece; "t5", SentencePiece Unigram; and "rwkv", the longest match of bytes. With BPE, text is
never Unicode normalized, even if the original tokenizer.json has a normalizer, since GGUF does not contain it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from models.checkpoints.gguf.array import array_values
from models.errors import CheckpointError, UnsupportedModelError
from models.tokenizer.gguf_bpe import merged_bpe
from models.tokenizer.gguf_rwkv import longest_match, spelled_tokens
from models.tokenizer.gguf_templates import add_encoder_template
from models.tokenizer.gguf_unigram import token_scores, unigram
from models.tokenizer.gguf_wordpiece import original_tokens, wordpiece

# tokenizer.ggml.token_type
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_SPACE = "▁"
_PRE_OF_KIND = {"gemma4": "gemma4", "whitespace": "whitespace"}
_MERGED = ("gpt2", *_PRE_OF_KIND)
_KINDS = ("bert", *_MERGED, "llama", "rwkv", "t5")
# tokenizer.ggml.pre of models that read <s> text </s>, and of models that read [CLS] text [SEP]
_ROBERTA, _MODERNBERT = ("jina-v1-en", "jina-v2-code", "roberta-bpe"), "modern-bert"


@dataclass(frozen=True, slots=True)
class GGUFTokenizer:
    """A GGUF file's tokenizer, with its tokens. `tokenizer` adds no BOS; `add_bos_token` says whether one is needed."""

    tokenizer: Tokenizer
    tokens: list[str]  # by id
    control_ids: list[int]
    add_bos_token: bool


def convert_gguf_tokenizer(metadata: Mapping[str, Any], path: Path) -> GGUFTokenizer:
    """Build the tokenizer from the metadata of the GGUF file at `path`.

    Raises UnsupportedModelError for an unknown kind, CheckpointError for metadata that contradict each other.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in _KINDS:
        raise UnsupportedModelError(f"{path} has a tokenizer of kind {kind!r}; supported are {', '.join(_KINDS)}")
    pre = _PRE_OF_KIND.get(kind) or metadata.get("tokenizer.ggml.pre", "default")
    tokens = _texts(metadata, "tokens", path)
    types = array_values(metadata.get("tokenizer.ggml.token_type")) or [1] * len(tokens)
    if len(types) != len(tokens):
        raise CheckpointError(f"{path} has {len(tokens)} tokens but {len(types)} token types; fetch it again")
    if kind == "bert":
        tokens = original_tokens(tokens, types)
    elif kind == "rwkv":
        tokens = spelled_tokens(tokens, types)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise CheckpointError(f"{path} has {len(tokens) - len(vocabulary)} tokens more than once; fetch it again")
    if kind == "bert":
        tokenizer, adds_bos = wordpiece(metadata, vocabulary, path), False
    elif kind in _MERGED:
        merges = _texts(metadata, "merges", path)
        tokenizer, adds_bos = merged_bpe(pre, merges, vocabulary, _unknown(tokens, types), path)
    elif kind == "t5":
        tokenizer, adds_bos = unigram(metadata, tokens, types, path), False
    elif kind == "rwkv":
        tokenizer, adds_bos = longest_match(vocabulary, path), False
    else:
        tokenizer, adds_bos = _sentencepiece_bpe(metadata, tokens, types, vocabulary, path)
    _add_special_tokens(tokenizer, tokens, types)
    control_ids = [i for i, kind in enumerate(types) if kind == _CONTROL]
    add_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", adds_bos))
    is_roberta = kind == "t5" or pre in _ROBERTA
    if is_roberta or kind == "bert" or metadata.get("tokenizer.ggml.add_sep_token", pre == _MODERNBERT):
        add_encoder_template(tokenizer, metadata, vocabulary, path, is_roberta=is_roberta)
        add_bos = False
    return GGUFTokenizer(tokenizer, tokens, control_ids, add_bos)


def _sentencepiece_bpe(
    metadata: Mapping[str, Any], tokens: list[str], types: list[int], vocabulary: dict[str, int], path: Path
) -> tuple[Tokenizer, bool]:
    scores = token_scores(metadata, len(tokens), path)
    merges = _merges_by_score(vocabulary, scores)
    unknown = _unknown(tokens, types)
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", _SPACE)]
    decode: list[decoders.Decoder] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend(_SPACE))
        decode.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(decode)
    return tokenizer, True


def _unknown(tokens: list[str], types: list[int]) -> str | None:
    return next((token for token, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)


def _merges_by_score(vocabulary: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Return all pairs of tokens that join to a third token, by descending score of that token.

    SentencePiece joins the neighbors whose joint token scores best, the leftmost among equals, and `tokenizers` takes
    the merge listed first. All tokens of a trained vocabulary have different scores, so the orders agree.
    """
    ranked: list[tuple[float, int, int, str, str]] = []
    for token, token_id in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-scores[token_id], vocabulary[left], vocabulary[right], left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def _add_special_tokens(tokenizer: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Add control tokens, which decoding can skip, and user-defined tokens, which are ordinary text but never split."""
    for token, kind in zip(tokens, types, strict=True):
        if kind in (_CONTROL, _UNKNOWN):
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=False)])


def _texts(metadata: Mapping[str, Any], name: str, path: Path) -> list[str]:
    values = array_values(metadata.get(f"tokenizer.ggml.{name}"))
    if not values or not isinstance(values[0], str):
        raise CheckpointError(f"{path} has no tokenizer.ggml.{name}; convert the model again with its tokenizer")
    return values
