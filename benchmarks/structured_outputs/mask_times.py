"""Time of a mask within several kinds of strings, by the slices of the vocabulary, and of checking one token.

    python -m benchmarks.structured_outputs.mask_times tokenizer.json --vocab-size 151936 --eos-token-id 151645

A slice is a part of the vocabulary that llguidance allows as a whole if a string allows all of it; the rest is checked
token by token.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import llguidance
import numpy as np

from benchmarks.tables import markdown
from engine.commands.bench.processor import processor_name
from engine.grammar.vocabulary import GrammarVocabulary, TokenizerSource

_ROUNDS = 5
_BLANKS, *_LENGTHS = llguidance.LLTokenizer.general_slices()
_ANY = r'[^"\\\x00-\x1F\x7F]'
SLICES: Mapping[str, list[str]] = {
    "llguidance's": [_BLANKS, *_LENGTHS],
    "and letters, digits": [_BLANKS, "[a-zA-Z0-9_]{1,10}", "[a-zA-Z0-9_]{1,30}", *_LENGTHS],
    "and words": [_BLANKS, r' ?[^"\\\s\x00-\x20\x7F]{1,10}', *_LENGTHS],
    "and up to 3, 6": [_BLANKS, f"{_ANY}{{1,3}}", f"{_ANY}{{1,6}}", *_LENGTHS],
    "none": [],
}
# The schema of a string, and its text when the mask is computed.
CASES: Mapping[str, tuple[dict[str, Any], str]] = {
    "any text": ({}, "abc"),
    "maxLength 300": ({"maxLength": 300}, "abc"),
    "maxLength 20, 7 left": ({"maxLength": 20}, "abcdefghijklm"),
    "`^[a-zA-Z0-9._-]+$`": ({"pattern": "^[a-zA-Z0-9._-]+$"}, "abc"),
    "`^[^:\\s]+:[^:\\s]+$`": ({"pattern": r"^[^:\s]+:[^:\s]+$"}, "abc"),
    "format email": ({"format": "email"}, "abc"),
    "`[a-z][a-z0-9]*` anywhere, found": ({"pattern": "[a-z][a-z0-9]*"}, "abc"),
    "`^(\\S+\\s+){0,99}\\S+$`": ({"pattern": r"^(\S+\s+){0,99}\S+$"}, "abc def"),
    "`^(\\S+\\s+){0,29}\\S+$`, maxLength 300": ({"pattern": r"^(\S+\s+){0,29}\S+$", "maxLength": 300}, "abc def"),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.structured_outputs.mask_times", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("tokenizer", type=Path, help="a tokenizer.json")
    parser.add_argument("--vocab-size", type=int, required=True, help="width of the model's output layer")
    parser.add_argument("--eos-token-id", type=int, required=True)
    options = parser.parse_args()
    source = TokenizerSource(options.tokenizer.read_bytes(), options.vocab_size, [options.eos_token_id])
    tokenizer = GrammarVocabulary.of(source).tokenizer
    sliced = [tokenizer.with_slices(slices) for slices in SLICES.values()]
    rows = [
        [name, *(f"{mask_ms(each, *case):.2f}" for each in sliced), f"{look_ms(tokenizer, *case):.3f}"]
        for name, case in CASES.items()
    ]
    sys.stdout.write(f"On {processor_name()}, {options.vocab_size:,} tokens; ms of a thread's time.\n\n")
    sys.stdout.write(markdown(["string", *SLICES, "one token"], rows) + "\n")
    return 0


def grammar_of(schema: dict[str, Any]) -> str:
    compact = {"whitespace_flexible": False}
    return json.dumps({"grammars": [{"json_schema": {"type": "string", **schema, "x-guidance": compact}}]})


def mask_ms(tokenizer: llguidance.LLTokenizer, schema: dict[str, Any], text: str) -> float:
    mask = np.zeros((tokenizer.vocab_size + 31) // 32, dtype=np.int32)

    def compute(matcher: llguidance.LLMatcher) -> None:
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)

    return _median_ms(tokenizer, schema, text, compute)


def look_ms(tokenizer: llguidance.LLTokenizer, schema: dict[str, Any], text: str) -> float:
    token_ids = tokenizer.tokenize_str("d")
    return _median_ms(tokenizer, schema, text, lambda matcher: matcher.validate_tokens(token_ids))


def _median_ms(
    tokenizer: llguidance.LLTokenizer, schema: dict[str, Any], text: str, act: Callable[[llguidance.LLMatcher], object]
) -> float:
    """Return the median time of `act` with new matchers after `text`."""
    times = []
    for _ in range(_ROUNDS):
        matcher = llguidance.LLMatcher(tokenizer, grammar_of(schema), log_level=0)
        if not matcher.consume_tokens(tokenizer.tokenize_str(f'"{text}')):
            raise SystemExit(f"mask_times: {matcher.get_error()}")
        start_s = time.thread_time()
        act(matcher)
        times.append((time.thread_time() - start_s) * 1000)
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
