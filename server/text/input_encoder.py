"""InputEncoder: texts and pairs of texts -> what a pooling model reads, cut to a length where that is asked for."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import tokenizers

from server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class EncodedInput:
    """The token ids of one input, with the model's special tokens. type_ids: as many; None where all are 0."""

    ids: list[int]
    type_ids: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """How many tokens an input may have, the model's special ones among them, and which end of a longer one stays."""

    max_tokens: int
    keeps_end: bool = False


class InputEncoder:
    """Encodes for one model. All methods may be called from any thread; while the library works, others run.

    A text is encoded without special tokens, cut, and then completed by the tokenizer's own post-processor, so that an
    input that was cut has the same special tokens as one that fits.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._library = tokenizer.library

    def num_added(self, *, is_pair: bool) -> int:
        """Special tokens of an input."""
        return int(self._library.num_special_tokens_to_add(is_pair)) + self._num_bos

    @functools.cached_property
    def _num_bos(self) -> int:
        """1 for a BOS that the post-processor does not add."""
        return len(self._tokenizer.encode("")) - int(self._library.num_special_tokens_to_add(False))

    def texts(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = True,
        cut: Cut | None = None,
        max_text_tokens: int | None = None,
    ) -> list[EncodedInput]:
        """One input a text. max_text_tokens: that stay of each text, from its beginning, special ones not counted."""
        if cut is None and max_text_tokens is None:
            encodings = self._library.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
            return [self._input(each) if add_special_tokens else EncodedInput(each.ids) for each in encodings]
        encodings = self._plain(texts)
        if max_text_tokens is not None:
            for encoding in encodings:
                _shorten(encoding, max_text_tokens, keeps_end=False)
        if cut is not None:
            room = cut.max_tokens - (self.num_added(is_pair=False) if add_special_tokens else 0)
            for encoding in encodings:
                _shorten(encoding, room, keeps_end=cut.keeps_end)
        if not add_special_tokens:
            return [EncodedInput(encoding.ids) for encoding in encodings]
        return [self._completed(encoding, None) for encoding in encodings]

    def pairs(
        self, pairs: Sequence[tuple[str, str]], *, cut: Cut | None = None, max_second_tokens: int | None = None
    ) -> list[EncodedInput]:
        """One input a pair, joined as the model's tokenizer does.

        max_second_tokens: that stay of each second text. What is still too long for `cut` loses tokens of its longer
        text, until both are equally long and both lose some.
        """
        firsts = [first for first, _ in pairs]
        # A query is paired with many documents: it is encoded once, and copied by the post-processor.
        known = dict(zip(unique := list(dict.fromkeys(firsts)), self._plain(unique), strict=True))
        seconds = self._plain([second for _, second in pairs])
        room = None if cut is None else cut.max_tokens - self.num_added(is_pair=True)
        completed = []
        for first, second in zip(firsts, seconds, strict=True):
            if max_second_tokens is not None:
                _shorten(second, max_second_tokens, keeps_end=False)
            query = known[first]
            if cut is not None and room is not None and len(query) + len(second) > room:
                num_first, num_second = shares(len(query), len(second), room)
                _shorten(second, num_second, keeps_end=cut.keeps_end)
                if num_first < len(query):
                    (query,) = self._plain([first])  # this pair's own, since it is cut for it alone
                    _shorten(query, num_first, keeps_end=cut.keeps_end)
            completed.append(self._completed(query, second))
        return completed

    def _plain(self, texts: Iterable[str]) -> list[tokenizers.Encoding]:
        encodings: list[tokenizers.Encoding] = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return encodings

    def _completed(self, first: tokenizers.Encoding, second: tokenizers.Encoding | None) -> EncodedInput:
        return self._input(self._library.post_process(first, second, add_special_tokens=True))

    def _input(self, encoding: tokenizers.Encoding) -> EncodedInput:
        ids, type_ids = encoding.ids, encoding.type_ids
        num_ids = len(ids)
        ids = self._tokenizer.with_one_bos(ids)
        if len(ids) != num_ids:  # a BOS that the post-processor does not add, or one too many
            type_ids = [0, *type_ids] if len(ids) > num_ids else type_ids[1:]
        return EncodedInput(ids, type_ids if any(type_ids) else None)


def shares(num_first: int, num_second: int, room: int) -> tuple[int, int]:
    """How many tokens of the two texts of a pair stay, `room` together: the longer one is cut first."""
    if num_first + num_second <= room:
        return num_first, num_second
    half = room // 2
    if min(num_first, num_second) >= half:
        rest = room - half  # the longer text has the odd one; of equals the second
        return (rest, half) if num_first > num_second else (half, rest)
    return (num_first, room - num_first) if num_first < num_second else (room - num_second, num_second)


def _shorten(encoding: tokenizers.Encoding, num_tokens: int, *, keeps_end: bool) -> None:
    if len(encoding) > num_tokens:
        encoding.truncate(max(0, num_tokens), direction="left" if keeps_end else "right")
