"""Comparison of two answers: the first difference of each of their parts, and the differing parts of fingerprints."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from server.commands.replay.answers import Answer, AnswerPart, Token

FINGERPRINT_PARTS = ("mode", "version", "weights", "kernels", "KV dtype")
_TEXTS = ("reasoning", "text", "refusal")  # fields whose tokens can be guessed
_CONTEXT = 60  # characters before a difference

TokensOf = Callable[[str], list[int]]
TextOf = Callable[[list[int]], str]


class Difference(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A difference between two answers, at its first place. stored, computed: None if there is nothing."""

    part: str  # "choice 0"
    what: str  # "token", "log probability", or the name of a field
    stored: Any
    computed: Any
    position: int | None = None  # of the token, from 0
    before: str | None = None  # the text before the token, or "..." and its end
    is_guess: bool = False  # tokens are those of the texts: the answers have no tokens, or the same ones
    has_tokens: bool = False  # an answer has its own tokens, if is_guess


class DifferingPart(msgspec.Struct):
    """A part of system_fingerprint that differs. name: "weights"."""

    name: str
    stored: str
    computed: str


def find_differences(stored: Answer, computed: Answer, tokens_of: TokensOf, text_of: TextOf) -> Iterator[Difference]:
    """Yield the first difference of each part. tokens_of, text_of: the model's tokenizer, called where tokens must be
    named."""
    counts = (stored.num_prompt_tokens, computed.num_prompt_tokens)
    if None not in counts and counts[0] != counts[1]:
        yield Difference(part="prompt", what="number of tokens", stored=counts[0], computed=counts[1])
    parts = {part.name: part for part in computed.parts}
    for part in stored.parts:
        other = parts.pop(part.name, None)
        if other is None:
            yield Difference(part=part.name, what="part", stored=part.fields, computed=None)
        else:
            yield from _differences(part, other, tokens_of, text_of)
    for other in parts.values():
        yield Difference(part=other.name, what="part", stored=None, computed=other.fields)
    counts = (stored.num_tokens, computed.num_tokens)  # with those that the answer does not show, such as a thought's
    if None not in counts and counts[0] != counts[1]:
        yield Difference(part="answer", what="number of tokens", stored=counts[0], computed=counts[1])


def differing_parts(stored: str, computed: str) -> list[DifferingPart]:
    """Compare two fingerprints part by part; fingerprints of another form are one part."""
    pairs = [text.split("/") for text in (stored, computed)]
    if any(len(parts) != len(FINGERPRINT_PARTS) for parts in pairs):
        return [] if stored == computed else [DifferingPart("system_fingerprint", stored, computed)]
    return [
        DifferingPart(name, *values)
        for name, *values in zip(FINGERPRINT_PARTS, *pairs, strict=True)
        if len({*values}) > 1
    ]


def _differences(
    stored: AnswerPart, computed: AnswerPart, tokens_of: TokensOf, text_of: TextOf
) -> Iterator[Difference]:
    """Yield the first differing token, the first differing log probability before it, or else a differing field."""
    found: list[Difference] = []
    if stored.tokens and computed.tokens:
        found = list(_token_differences(stored.name, stored.tokens, computed.tokens))
    if not found and stored.ids and computed.ids:
        found = list(_id_differences(stored.name, stored.ids, computed.ids, text_of))
    if found:
        yield from found
        return
    for field in dict.fromkeys((*stored.fields, *computed.fields)):
        values = [part.fields.get(field) for part in (stored, computed)]
        if values[0] == values[1]:
            continue
        ids = [tokens_of(str(value or "")) for value in values] if field in _TEXTS else [[], []]
        guess = list(_id_differences(f"{stored.name}, {field}", ids[0], ids[1], text_of, is_guess=True))
        for each in guess:
            each.has_tokens = any((stored.tokens, stored.ids, computed.tokens, computed.ids))
        yield from guess or [Difference(part=stored.name, what=field, stored=values[0], computed=values[1])]
        break
    for what, left, right in (
        ("log probabilities", stored.tokens, computed.tokens),
        ("token ids", stored.ids, computed.ids),
    ):
        if bool(left) != bool(right):
            counts = [f"of {len(each)} tokens" if each else None for each in (left, right)]
            yield Difference(part=stored.name, what=what, stored=counts[0], computed=counts[1])


def _token_differences(name: str, stored: Sequence[Token], computed: Sequence[Token]) -> Iterator[Difference]:
    texts = [[token.text for token in each] for each in (stored, computed)]
    place = _first_difference(*texts)
    if place is not None:
        pair = [each[place] if place < len(each) else None for each in texts]
        yield Difference(
            part=name, what="token", stored=pair[0], computed=pair[1], position=place, before=_context(texts[0][:place])
        )
    scored = _first_difference(stored, computed)
    if scored is not None and scored != place:
        yield Difference(
            part=name,
            what=f"log probability of {texts[0][scored]!r}",
            stored=stored[scored].scores,
            computed=computed[scored].scores,
            position=scored,
            before=_context(texts[0][:scored]),
        )


def _id_differences(
    name: str, stored: list[int], computed: list[int], text_of: TextOf, *, is_guess: bool = False
) -> Iterator[Difference]:
    place = _first_difference(stored, computed)
    if place is None:
        return
    before = text_of(stored[:place])

    def token(ids: list[int]) -> str | None:
        if place >= len(ids):
            return None
        whole = text_of(ids[: place + 1])
        # Bytes that alone are an incomplete character change the text before them.
        return whole.removeprefix(before) if whole.startswith(before) else text_of(ids[place : place + 1])

    yield Difference(
        part=name,
        what="token",
        stored=token(stored),
        computed=token(computed),
        position=place,
        before=_context([before]),
        is_guess=is_guess,
    )


def _context(texts: Sequence[str]) -> str:
    text = "".join(texts)
    return text if len(text) <= _CONTEXT else f"...{text[-_CONTEXT:]}"


def _first_difference(stored: Sequence[Any], computed: Sequence[Any]) -> int | None:
    pairs = zip(stored, computed, strict=False)
    end = min(len(stored), len(computed)) if len(stored) != len(computed) else None
    return next((place for place, (left, right) in enumerate(pairs) if left != right), end)
