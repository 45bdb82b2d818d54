"""InputEncoder: tokenizes the inputs of pooling models, texts and pairs of texts, and truncates them if requested."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import tokenizers

from server.text.tokenizer import Tokenizer, refusing_panics


@dataclass(frozen=True, slots=True)
class EncodedInput:
    """Token ids of one input, with special tokens. type_ids: the token type (segment) of each id; None if all are 0."""

    ids: list[int]
    type_ids: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """A truncation: the most tokens that an input may have, with special tokens, and whether to keep its end."""

    max_tokens: int
    keeps_end: bool = False


@dataclass(frozen=True, slots=True)
class FirstText:
    """The encoded first text of pairs, without special tokens. num_tokens: length before truncation of `encoding`."""

    num_tokens: int
    encoding: tokenizers.Encoding


class InputEncoder:
    """Encodes the inputs of one model. Methods may be called from any thread; the tokenizer library releases the GIL.

    A text is encoded without special tokens, truncated, and then completed by the tokenizer's own post-processor, so
    that truncated inputs keep their special tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._library = tokenizer.library

    def num_added(self, *, is_pair: bool) -> int:
        """Return the number of special tokens that are added to a text, or to a pair of texts."""
        return int(self._library.num_special_tokens_to_add(is_pair)) + self._num_bos

    @functools.cached_property
    def _num_bos(self) -> int:
        """Number of BOS tokens to add: 1 if the model needs one that the post-processor does not add, else 0."""
        return len(self._tokenizer.encode("")) - int(self._library.num_special_tokens_to_add(False))

    @refusing_panics()
    def texts(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = True,
        cut: Cut | None = None,
        max_text_tokens: int | None = None,
    ) -> list[EncodedInput]:
        """Encode each text as one input. max_text_tokens: tokens to keep of each text, without special tokens."""
        if cut is None and max_text_tokens is None:
            encodings = self._library.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
            return [self._input(each) if add_special_tokens else EncodedInput(each.ids) for each in encodings]
        encodings = self._plain(texts)
        if max_text_tokens is not None:
            encodings = [_shortened(encoding, max_text_tokens, keeps_end=False) for encoding in encodings]
        if cut is not None:
            room = cut.max_tokens - (self.num_added(is_pair=False) if add_special_tokens else 0)
            encodings = [_shortened(encoding, room, keeps_end=cut.keeps_end) for encoding in encodings]
        if not add_special_tokens:
            return [EncodedInput(encoding.ids) for encoding in encodings]
        return [self._completed(encoding, None) for encoding in encodings]

    @refusing_panics()
    def pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        cut: Cut | None = None,
        max_second_tokens: int | None = None,
        known: dict[str, FirstText] | None = None,
    ) -> list[EncodedInput]:
        """Encode each pair as one input, with the two texts joined by the tokenizer's post-processor.

        max_second_tokens: tokens to keep of each second text. A pair that is still too long loses tokens of its longer
        text until both are equally long, and then of both. known: a cache of first texts, kept between calls with the
        same cut, so that a query with many documents is encoded once. It holds only the first texts of the last call.
        """
        known = {} if known is None else known
        firsts = dict.fromkeys(first for first, _ in pairs)
        room = None if cut is None else cut.max_tokens - self.num_added(is_pair=True)
        for text in known.keys() - firsts:
            del known[text]
        new = [text for text in firsts if text not in known]
        for text, whole in zip(new, self._plain(new), strict=True):
            part = whole if cut is None or room is None else _shortened(whole, room, keeps_end=cut.keeps_end)
            known[text] = FirstText(len(whole), part)
        completed = []
        for (text, _), second in zip(pairs, self._plain([second for _, second in pairs]), strict=True):
            if max_second_tokens is not None:
                second = _shortened(second, max_second_tokens, keeps_end=False)
            first = known[text].encoding
            if cut is not None and room is not None:
                num_first, num_second = shares(known[text].num_tokens, len(second), room)
                first = _shortened(first, num_first, keeps_end=cut.keeps_end)
                second = _shortened(second, num_second, keeps_end=cut.keeps_end)
            completed.append(self._completed(first, second))
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
        if len(ids) != num_ids:  # a BOS was added or removed
            type_ids = [0, *type_ids] if len(ids) > num_ids else type_ids[1:]
        return EncodedInput(ids, type_ids if any(type_ids) else None)


def shares(num_first: int, num_second: int, room: int) -> tuple[int, int]:
    """Return the number of tokens to keep of each text of a pair, `room` in total. The longer text is cut first."""
    if num_first + num_second <= room:
        return num_first, num_second
    half = room // 2
    if min(num_first, num_second) >= half:
        rest = room - half  # an odd token goes to the longer text, or to the second of equal ones
        return (rest, half) if num_first > num_second else (half, rest)
    return (num_first, room - num_first) if num_first < num_second else (room - num_second, num_second)


def _shortened(encoding: tokenizers.Encoding, num_tokens: int, *, keeps_end: bool) -> tokenizers.Encoding:
    """Truncate the encoding to its first or last tokens, if it is too long.

    Encoding.truncate is not used, since it keeps the parts that it cuts off. The post-processor would combine each such
    part of one text with each of the other, which takes minutes for two texts of a megabyte.
    """
    if len(encoding) <= num_tokens:
        return encoding
    num_tokens = max(0, num_tokens)
    start = len(encoding) - num_tokens if keeps_end else 0
    ids = encoding.ids[start : start + num_tokens]
    zeros = [0] * num_tokens
    state = {
        "ids": ids,
        "type_ids": zeros,
        "tokens": [""] * num_tokens,  # empty like the offsets, as from encode_batch_fast
        "words": [None] * num_tokens,
        "offsets": [(0, 0)] * num_tokens,
        "special_tokens_mask": zeros,
        "attention_mask": [1] * num_tokens,
        "overflowing": [],
        "sequence_ranges": {},
    }
    part = tokenizers.Encoding()
    part.__setstate__(msgspec.json.encode(state))  # its pickled form, since no constructor takes ids
    return part
