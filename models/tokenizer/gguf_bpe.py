"""BPE vocabularies of GGUF files with merges (tokenizer.ggml.model "gpt2", "gemma4" and "whitespace")."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer

from models.errors import CheckpointError, UnsupportedModelError
from models.tokenizer.gguf_pretokenizers import WORD_SPLITS, Alphabet, WordSplit

_SPACE = "▁"
# A position at the beginning of a line that begins with no "▁" yet
_LINE_START = rf"(?<![^\n])(?=[^{_SPACE}\n])"


def merged_bpe(
    pre: str, merges: Sequence[str], vocabulary: dict[str, int], unknown: str | None, path: Path
) -> tuple[Tokenizer, bool]:
    """Build the tokenizer of a vocabulary with merges; return it, and whether it adds BOS if the metadata do not say.

    pre: tokenizer.ggml.pre. unknown: the token of text that the vocabulary lacks.
    Raises UnsupportedModelError for an unknown `pre`, CheckpointError for merges that are not made of the tokens.
    """
    if pre not in WORD_SPLITS:
        known = ", ".join(sorted(WORD_SPLITS))
        raise UnsupportedModelError(f"{path} has the pre-tokenizer {pre!r} (tokenizer.ggml.pre); supported are {known}")
    split = WORD_SPLITS[pre]
    pairs = [_pair(merge, vocabulary, path) for merge in merges]
    if split.alphabet is Alphabet.BYTES:
        tokenizer = Tokenizer(BPE(vocabulary, pairs, ignore_merges=split.ignore_merges))
        steps = _splits(split)
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        tokenizer.decoder = decoders.ByteLevel()
    elif split.alphabet is Alphabet.METASPACE:
        tokenizer = Tokenizer(BPE(vocabulary, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True))
        _use_metaspace(tokenizer, is_by_line=split.lines_begin_with_space)
    else:
        tokenizer = Tokenizer(BPE(vocabulary, pairs, unk_token=unknown, fuse_unk=True))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer, split.adds_bos


def _pair(merge: str, vocabulary: Mapping[str, int], path: Path) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space or left + right not in vocabulary or left not in vocabulary or right not in vocabulary:
        raise CheckpointError(f"{path} has the merge {merge!r}, which is not made of its tokens; fetch it again")
    return left, right


def _splits(split: WordSplit) -> list[PreTokenizer]:
    return [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in split.patterns]


def _use_metaspace(tokenizer: Tokenizer, *, is_by_line: bool) -> None:
    """Make the tokenizer write spaces as "▁". is_by_line: each line begins with one, and each "▁" begins a word."""
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", _SPACE)]
    decode: list[decoders.Decoder] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if is_by_line:
        steps.append(normalizers.Replace(Regex(_LINE_START), _SPACE))
        words = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in (r"\n+", rf"{_SPACE}[^{_SPACE}]*")]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
        decode.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(decode)
