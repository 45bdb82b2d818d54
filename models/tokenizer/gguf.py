"""Conversion of GGUF vocabularies to a `tokenizers` tokenizer that gives the same ids as llama.cpp.

There are four kinds (tokenizer.ggml.model): "gpt2", byte-level BPE with merges and a named pre-tokenizer
(tokenizer.ggml.pre); "llama", SentencePiece BPE with a score for each token; "bert", WordPiece; and "t5", SentencePiece
Unigram. For the first two, text is never Unicode normalized, even if the original tokenizer.json has a normalizer,
since GGUF does not contain it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer

from models.checkpoints.gguf.array import array_values
from models.errors import CheckpointError, UnsupportedModelError
from models.tokenizer.gguf_pretokenizers import WORD_SPLITS
from models.tokenizer.gguf_templates import add_encoder_template
from models.tokenizer.gguf_unigram import token_scores, unigram
from models.tokenizer.gguf_wordpiece import original_tokens, wordpiece

# tokenizer.ggml.token_type
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_SPACE = "▁"
_KINDS = ("bert", "gpt2", "llama", "t5")
# tokenizer.ggml.pre of models that read <s> text </s>, and of models that read [CLS] text [SEP].
_ROBERTA, _MODERNBERT = "roberta-bpe", "modern-bert"


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
    tokens = _texts(metadata, "tokens", path)
    types = array_values(metadata.get("tokenizer.ggml.token_type")) or [1] * len(tokens)
    if len(types) != len(tokens):
        raise CheckpointError(f"{path} has {len(tokens)} tokens but {len(types)} token types; fetch it again")
    if kind == "bert":
        tokens = original_tokens(tokens, types)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise CheckpointError(f"{path} has {len(tokens) - len(vocabulary)} tokens more than once; fetch it again")
    if kind == "bert":
        tokenizer, adds_bos = wordpiece(metadata, vocabulary, path), False
    elif kind == "gpt2":
        tokenizer, adds_bos = _byte_level_bpe(metadata, vocabulary, path)
    elif kind == "t5":
        tokenizer, adds_bos = unigram(metadata, tokens, types, path), False
    else:
        tokenizer, adds_bos = _sentencepiece_bpe(metadata, tokens, types, vocabulary, path)
    _add_special_tokens(tokenizer, tokens, types)
    control_ids = [i for i, kind in enumerate(types) if kind == _CONTROL]
    add_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", adds_bos))
    pre = metadata.get("tokenizer.ggml.pre")
    is_roberta = kind == "t5" or pre == _ROBERTA
    if is_roberta or kind == "bert" or metadata.get("tokenizer.ggml.add_sep_token", pre == _MODERNBERT):
        add_encoder_template(tokenizer, metadata, vocabulary, path, is_roberta=is_roberta)
        add_bos = False
    return GGUFTokenizer(tokenizer, tokens, control_ids, add_bos)


def _byte_level_bpe(metadata: Mapping[str, Any], vocabulary: dict[str, int], path: Path) -> tuple[Tokenizer, bool]:
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name not in WORD_SPLITS:
        known = ", ".join(sorted(WORD_SPLITS))
        raise UnsupportedModelError(
            f"{path} has the pre-tokenizer {name!r} (tokenizer.ggml.pre); supported are {known}"
        )
    split = WORD_SPLITS[name]
    merges = []
    for merge in _texts(metadata, "merges", path):
        left, space, right = merge.partition(" ")
        if not space or left + right not in vocabulary or left not in vocabulary or right not in vocabulary:
            raise CheckpointError(f"{path} has the merge {merge!r}, which is not made of its tokens; fetch it again")
        merges.append((left, right))
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=split.ignore_merges))
    steps: list[PreTokenizer] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in split.patterns]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, split.adds_bos


def _sentencepiece_bpe(
    metadata: Mapping[str, Any], tokens: list[str], types: list[int], vocabulary: dict[str, int], path: Path
) -> tuple[Tokenizer, bool]:
    scores = token_scores(metadata, len(tokens), path)
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    merges = _merges_by_score(vocabulary, scores)
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", _SPACE)]
    decode: list[decoders.Decoder] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend(_SPACE))
        decode.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(decode)
    return tokenizer, True


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
