"""Tokens for filling in the middle: which a vocabulary has, and in which order its model reads prefix and suffix.

A model that was trained for it reads what is before a gap and what is after it, each behind a token of its own, and
writes what belongs between (Bavarian et al., 2022, arXiv:2207.14255). What in a checkpoint says so are the spellings of
the tokens, and in some GGUF files their ids. Some models were trained with more files of the repository before the one
with the gap (Hui et al., 2024, arXiv:2409.12186).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Names:
    """The spellings of one family of vocabularies. Those from `repository` on need not exist."""

    prefix: str
    suffix: str
    middle: str | None  # None: the answer begins right after the part that is read last
    suffix_first: bool = False
    repository: tuple[str, ...] = ()  # before a repository's name
    file: tuple[str, ...] = ()  # before each file's path
    ends: tuple[str, ...] = ()  # what such a model writes after the middle, beside EOS and all the above


_END_OF_TEXT = "<|endoftext|>"

# The first whose tokens the vocabulary has.
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
    """One model's tokens, and how a prompt is made with them."""

    prefix_id: int
    suffix_id: int
    middle_id: int | None
    suffix_first: bool
    repository_id: int | None
    file_id: int | None
    end_ids: frozenset[int]  # that end the middle
    texts: re.Pattern[str]  # the spellings of all of these

    def prompt(self, prefix_ids: list[int], suffix_ids: list[int]) -> list[int]:
        """The prompt after which the model writes the middle."""
        prefix, suffix = [self.prefix_id, *prefix_ids], [self.suffix_id, *suffix_ids]
        parts = [*suffix, *prefix] if self.suffix_first else [*prefix, *suffix]
        return parts if self.middle_id is None else [*parts, self.middle_id]

    @property
    def roles(self) -> Mapping[str, int | None]:
        """The ids that make the prompt."""
        return {"prefix": self.prefix_id, "suffix": self.suffix_id, "middle": self.middle_id}

    @property
    def num_marks(self) -> int:
        """How many tokens `prompt` adds."""
        return len(self.prompt([], []))

    def encode(
        self, text: str, tokenizer: Tokenizer, *, continues: bool = False, at_most: int | None = None
    ) -> list[int]:
        """The ids of a client's text, which cannot spell any of these tokens, nor another control token.

        continues: the text does not begin one, so the tokenizer puts no space before it. Raises TooManyTokens for a
        long text with more than `at_most`, before all of it is tokenized where the tokenizer allows that.
        """
        tokenizer.check_bound(text, at_most)
        ids: list[int] = []
        start = 0
        for match in self.texts.finditer(text):  # a vocabulary may hold them as ordinary tokens, so they are cut in two
            ids += _plain(tokenizer, text[start : match.start() + 1], continues or start > 0)
            start = match.start() + 1
        return ids + _plain(tokenizer, text[start:], continues or start > 0)


def _plain(tokenizer: Tokenizer, text: str, continues: bool) -> list[int]:
    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False, parse_special=False)

    if continues and tokenizer.strips_space and text:
        before = encode("\u263a")  # no word of a vocabulary goes across it
        ids = encode("\u263a" + text)
        if ids[: len(before)] == before:
            return ids[len(before) :]
    return encode(text)


def find_fill_in_middle(tokenizer: Tokenizer, named: Mapping[str, int] | None = None) -> FillInMiddle | None:
    """What the vocabulary has; None for a model that cannot fill in the middle.

    named: ids that the checkpoint names, by their roles. They count before any spelling; but a family that has them
    tells more, such as which part is read first.
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
        wanted = [names.prefix, names.suffix, *([] if names.middle is None else [names.middle])]
        ids = {text: tokenizer.token_to_id(text) for text in wanted}
        if all(token_id is not None for token_id in ids.values()):
            return _with_names(names, tokenizer)
    return None


def _from_ids(named: Mapping[str, int], tokenizer: Tokenizer) -> FillInMiddle:
    """The prefix first, as in most families."""
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


def _with_names(names: _Names, tokenizer: Tokenizer) -> FillInMiddle:
    marks = [names.prefix, names.suffix, *([] if names.middle is None else [names.middle])]
    texts = [*marks, *names.repository, *names.file, *names.ends]
    known = {text: token_id for text in texts if (token_id := tokenizer.token_to_id(text)) is not None}
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


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)))


def _first(texts: tuple[str, ...], known: Mapping[str, int]) -> int | None:
    return next((known[text] for text in texts if text in known), None)
