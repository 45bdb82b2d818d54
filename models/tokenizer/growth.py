"""Bounds on how long the steps of a tokenizer.json can make a text, found in the file without running it.

A tokenizer.json is a program that comes with a checkpoint: four replacements of "a" by a thousand of them would make a
terabyte of 29 bytes. Library steps that change characters by fixed tables (NFKC, Lowercase) count as 1; the trial in
models/tokenizer/trial.py tries what they do together.
"""

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import tokenizers

from models.errors import CheckpointError
from models.tokenizer.charsmap import longest_replacement

MAX_GROWTH = 64  # characters for one; real files stay below 40
_MAX_STEPS = 32
_MAX_ADDED_IDS = 256  # by a post-processor, to one text
_MAX_WORD = 10_000  # characters; WordPiece takes quadratic time for a word
_MAX_AFFIX = 256
_INNER = ("normalizers", "pretokenizers", "processors", "decoders")
_REMEDY = "use the tokenizer.json of the original model"


class Model(msgspec.Struct, frozen=True):
    """Settings of a tokenizer.json's model that bound the time of one word."""

    max_input_chars_per_word: Any = None
    continuing_subword_prefix: Any = None
    end_of_word_suffix: Any = None


class TokenizerParts(msgspec.Struct, frozen=True):
    """A tokenizer.json without its vocabulary and added tokens."""

    normalizer: Any = None
    pre_tokenizer: Any = None
    post_processor: Any = None
    decoder: Any = None
    model: Model | None = None


def read_parts(tokenizer_json: bytes) -> TokenizerParts | None:
    """Decode the parts of a tokenizer.json; None if it is not one, as `tokenizers` then says better."""
    try:
        return msgspec.json.decode(tokenizer_json, type=TokenizerParts)
    except (msgspec.DecodeError, RecursionError):
        return None


def parts_of(tokenizer: tokenizers.Tokenizer) -> TokenizerParts:
    """Return the parts of a tokenizer that has been read, without the settings of its model."""
    names = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    parts = ((name, getattr(tokenizer, name)) for name in names)
    return TokenizerParts(**{name: json.loads(part.__getstate__()) for name, part in parts if part is not None})


def flat_steps(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of a normalizer, pre-tokenizer, post-processor or decoder, with sequences flattened."""
    pending = [part]
    while pending:
        step = pending.pop()
        if not isinstance(step, Mapping):
            continue
        if step.get("type") != "Sequence":
            yield step
            continue
        inner = next((step[name] for name in _INNER if name in step), ())
        pending += reversed(inner if isinstance(inner, list) else ())


def check_growth(parts: TokenizerParts, source: str) -> None:
    """Raise CheckpointError if the steps can make a text much longer. source: the file's path, for messages."""
    for name, growth in (
        ("normalizer", _growth_of_normalizer),
        ("pre_tokenizer", _growth_of_pre_tokenizer),
        ("decoder", _growth_of_replacement),
    ):
        _check_steps(list(flat_steps(getattr(parts, name))), growth, f"{source}: its {name}")
    _check_added(list(flat_steps(parts.post_processor)), f"{source}: its post_processor")
    if parts.model is not None:
        _check_model(parts.model, f"{source}: its model")


def _check_steps(
    steps: list[Mapping[str, Any]], growth: Callable[[Mapping[str, Any], str], float], subject: str
) -> None:
    if len(steps) > _MAX_STEPS:
        raise CheckpointError(f"{subject} has {len(steps)} steps; the limit is {_MAX_STEPS}; {_REMEDY}")
    factors = [growth(step, subject) for step in steps]
    if (factor := math.prod(factors)) > MAX_GROWTH:
        largest = steps[factors.index(max(factors))].get("type")
        raise CheckpointError(
            f"{subject} can make a text {factor:,.0f} times as long (its {largest} alone {max(factors):,.0f} times); "
            f"the limit is {MAX_GROWTH}; {_REMEDY}"
        )


def _growth_of_normalizer(step: Mapping[str, Any], subject: str) -> float:
    match step.get("type"):
        case "Prepend":
            return 1 + _length(step.get("prepend"))
        case "ByteLevel":
            return 4
        case "Precompiled":
            return _growth_of_table(step.get("precompiled_charsmap"), subject)
    return _growth_of_replacement(step, subject)


def _growth_of_pre_tokenizer(step: Mapping[str, Any], _: str) -> float:
    """Return the growth of one character: a step may spell it as bytes, and add a blank to it."""
    return {"ByteLevel": 5, "Metaspace": 2}.get(str(step.get("type")), 1)


def _growth_of_replacement(step: Mapping[str, Any], _: str) -> float:
    if step.get("type") != "Replace" or not isinstance(pattern := step.get("pattern"), Mapping):
        return 1
    length, replaced = _length(step.get("content")), _length(pattern.get("String"))
    if replaced == 0:  # an expression, which may match between any two characters
        return 1 + length
    return max(1.0, length / replaced)


def _growth_of_table(table: object, subject: str) -> float:
    if not isinstance(table, str) or not table:
        return 1
    name = f"{subject}'s precompiled_charsmap"
    try:
        decoded = base64.b64decode(table, validate=True)
    except ValueError:
        raise CheckpointError(f"{name} is not base64; {_REMEDY}") from None
    return max(1, longest_replacement(decoded, name))


def _length(text: object) -> int:
    return len(text) if isinstance(text, str) else 0


def _check_added(steps: list[Mapping[str, Any]], subject: str) -> None:
    templates = [step for step in steps if step.get("type") == "TemplateProcessing"]
    for step in templates:
        tokens = step.get("special_tokens")
        for name in ("single", "pair"):
            items = step.get(name)
            if not isinstance(items, list) or not isinstance(tokens, Mapping):
                continue
            texts = [item["Sequence"].get("id") for item in items if _is_kind(item, "Sequence")]
            if len(texts) > len(set(map(str, texts))):
                raise CheckpointError(f"{subject} repeats a text in its template {name!r}; {_REMEDY}")
            names = [item["SpecialToken"].get("id") for item in items if _is_kind(item, "SpecialToken")]
            added = [tokens.get(each) for each in names if isinstance(each, str)]
            num_ids = sum(len(each.get("ids") or ()) for each in added if isinstance(each, Mapping))
            if len(templates) * num_ids > _MAX_ADDED_IDS:
                raise CheckpointError(
                    f"{subject} adds {num_ids:,} tokens to a text; the limit is {_MAX_ADDED_IDS}; {_REMEDY}"
                )


def _is_kind(item: object, kind: str) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get(kind), Mapping)


def _check_model(model: Model, subject: str) -> None:
    if isinstance(size := model.max_input_chars_per_word, int) and size > _MAX_WORD:
        raise CheckpointError(
            f"{subject} reads words of {size:,} characters (max_input_chars_per_word); the limit is {_MAX_WORD:,}; "
            f"{_REMEDY}"
        )
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if (length := _length(getattr(model, name))) > _MAX_AFFIX:
            raise CheckpointError(
                f"{subject} has a {name} of {length:,} characters; the limit is {_MAX_AFFIX}; {_REMEDY}"
            )
