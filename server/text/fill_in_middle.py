"""Fill-in-the-middle (FIM) tokens, and the order in which a model reads prefix and suffix.

A model that was trained for it reads the text before a gap and the text after the gap, each marked by a special token,
and writes the text between (Bavarian et al., 2022, arXiv:2207.14255). A checkpoint shows this only by the spellings of
the tokens, and in some GGUF files by their ids. Some models were trained with other files of the repository before the
file with the gap (Hui et al., 2024, arXiv:2409.12186).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Names:
    """Spellings of FIM tokens in one family of vocabularies. `repository`, `file` and `ends` may be missing."""

    prefix: str
    suffix: str
    middle: str | None  # None: the answer begins directly after the last part of the prompt
    suffix_first: bool = False
    repository: tuple[str, ...] = ()  # before a repository's name
    file: tuple[str, ...] = ()  # before each file's path
    ends: tuple[str, ...] = ()  # tokens that end the middle, besides EOS and the fields above


_END_OF_TEXT = "<|endoftext|>"

# The first family whose tokens the vocabulary has is used.
_FAMILIES = (
    _Names(  # Qwen2.5-Coder, Qwen3-Coder, CodeGemma
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        repository=("<|repo_name|>",),
        file=("<|file_sep|>", "<|file_separator|>"),
        ends=("<|fim_pad|>", _END_OF_TEXT),
    ),
    _Names(  # StarCoder 1 and 2, Granite Code, StableCode
        "<fim_prefix>",
        "<fim_suffix>",
        "<fim_middle>",
        repository=("<repo_name>", "<reponame>"),
        file=("<file_sep>", "<filename>"),
        ends=("<fim_pad>", _END_OF_TEXT),
    ),
    _Names("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ends=("<fim-pad>", _END_OF_TEXT)),  # SantaCoder
    _Names("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ends=("<｜end▁of▁sentence｜>", "<|EOT|>")),  # DeepSeek
    _Names("▁<PRE>", "▁<SUF>", "▁<MID>", ends=("▁<EOT>",)),  # CodeLlama
    _Names("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>", ends=(_END_OF_TEXT,)),  # GLM-4.5
    _Names("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", suffix_first=True),  # Seed-Coder
    _Names("[PREFIX]", "[SUFFIX]", None, suffix_first=True),  # Codestral
)


@dataclass(frozen=True, slots=True)
class FillInMiddle:
    """The fill-in-the-middle (FIM) tokens of one model."""

    prefix_id: int
    suffix_id: int
    middle_id: int | None
    suffix_first: bool
    repository_id: int | None
    file_id: int | None
    end_ids: frozenset[int]  # ids of the tokens that end the middle
    texts: re.Pattern[str]  # matches the spelling of every FIM token

    def prompt(self, prefix_ids: list[int], suffix_ids: list[int]) -> list[int]:
        """Return the token ids of the prompt after which the model writes the middle."""
        prefix, suffix = [self.prefix_id, *prefix_ids], [self.suffix_id, *suffix_ids]
        parts = [*suffix, *prefix] if self.suffix_first else [*prefix, *suffix]
        return parts if self.middle_id is None else [*parts, self.middle_id]

    @property
    def roles(self) -> Mapping[str, int | None]:
        """Ids of the prompt's FIM tokens, by role."""
        return {"prefix": self.prefix_id, "suffix": self.suffix_id, "middle": self.middle_id}

    @property
    def num_marks(self) -> int:
        """Number of FIM tokens that `prompt` adds."""
        return len(self.prompt([], []))

    def encode(
        self, text: str, tokenizer: Tokenizer, *, continues: bool = False, at_most: int | None = None
    ) -> list[int]:
        """Return the token ids of a client's text, in which spellings of FIM and other control tokens are plain text.

        continues: the text continues another one, so the tokenizer adds no space before it. Raises TooManyTokens for a
        long text with more than `at_most` tokens, before all of it is tokenized if the tokenizer allows that.
        """
        tokenizer.check_bound(text, at_most)

        def encode(start: int, end: int) -> list[int]:
            if continues or start > 0:
                return tokenizer.encode_inside(text[start:end], parse_special=False)
            return tokenizer.encode(text[start:end], add_special_tokens=False, parse_special=False)

        ids: list[int] = []
        start = 0
        for match in self.texts.finditer(text):  # split, since a vocabulary may have them as ordinary tokens
            ids += encode(start, match.start() + 1)
            start = match.start() + 1
        return ids + encode(start, len(text))


def find_fill_in_middle(tokenizer: Tokenizer, named: Mapping[str, int] | None = None) -> FillInMiddle | None:
    """Return the FIM tokens of the vocabulary; None for a model that cannot fill in the middle.

    named: ids that the checkpoint declares, by role. They override a known family's ids; if they agree, the family is
    used, since it also defines the order of prefix and suffix, for example.
    """
    family = _find_family(tokenizer)
    named = {role: token_id for role, token_id in (named or {}).items() if tokenizer.id_to_token(token_id) is not None}
    if not {"prefix", "suffix"} <= named.keys():
        return family
    if family is not None and all(named.get(role, known) == known for role, known in family.roles.items()):
        return family
    return _from_ids(named, tokenizer)


def _find_family(tokenizer: Tokenizer) -> FillInMiddle | None:
    for names in _FAMILIES:
        marks = [names.prefix, names.suffix, *filter(None, [names.middle])]
        texts = [*marks, *names.repository, *names.file, *names.ends]
        known = {text: token_id for text in texts if (token_id := tokenizer.token_to_id(text)) is not None}
        if known.keys() >= set(marks):
            return FillInMiddle(
                prefix_id=known[names.prefix],
                suffix_id=known[names.suffix],
                middle_id=None if names.middle is None else known[names.middle],
                suffix_first=names.suffix_first,
                repository_id=_first(names.repository, known),
                file_id=_first(names.file, known),
                end_ids=frozenset(known.values()),
                texts=_any_of(known),
            )
    return None


def _from_ids(named: Mapping[str, int], tokenizer: Tokenizer) -> FillInMiddle:
    """Return FIM tokens with the declared ids, and the prefix first as in most families."""
    known = {text: token_id for token_id in named.values() if (text := tokenizer.id_to_token(token_id)) is not None}
    if (end_id := tokenizer.token_to_id(_END_OF_TEXT)) is not None:
        known[_END_OF_TEXT] = end_id
    return FillInMiddle(
        prefix_id=named["prefix"],
        suffix_id=named["suffix"],
        middle_id=named.get("middle"),
        suffix_first=False,
        repository_id=named.get("repository"),
        file_id=named.get("file"),
        end_ids=frozenset(known.values()),
        texts=_any_of(known),
    )


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)))


def _first(texts: tuple[str, ...], known: Mapping[str, int]) -> int | None:
    return next((known[text] for text in texts if text in known), None)
