"""Libraries that follow JSON schemas, with one interface: llguidance as headrace uses it, and xgrammar."""

import argparse
import itertools
import json
from typing import Any, Protocol

import llguidance
import numpy as np

from server.structured_outputs.json_schema.preparation import prepare_schema


class Matcher(Protocol):
    """The state of one instance in a compiled schema."""

    def fill_mask(self) -> None: ...

    def accept(self, token_id: int) -> bool: ...

    def can_end(self) -> bool: ...

    def num_forced(self, token_ids: list[int]) -> int:
        """Return the number of next tokens without an alternative."""
        ...


class Headrace:
    """llguidance with `prepare_schema`, like a request with `strict`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.tokenizer = tokenizer_of(options)
        self._mask = np.zeros((options.vocab_size + 31) // 32, dtype=np.int32)
        self._kept: list[llguidance.LLMatcher] = []  # for the measurement of memory

    def compile(self, schema: Any) -> llguidance.LLMatcher:
        prepared = prepare_schema(schema, param="schema", is_strict=True)
        grammar = json.dumps({"grammars": [{"lark_grammar": f"start: %json {json.dumps(prepared.schema)}"}]})
        limits = llguidance.LLParserLimits(verbose_errors=False)
        matcher = llguidance.LLMatcher(self.tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        self._kept.append(matcher)
        return matcher

    def matcher(self, compiled: llguidance.LLMatcher) -> Matcher:
        return _LLMatcher(compiled.deep_copy(), self._mask)


class _LLMatcher:
    def __init__(self, matcher: llguidance.LLMatcher, mask: np.ndarray) -> None:
        self._matcher = matcher
        self._mask = mask

    def fill_mask(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)

    def accept(self, token_id: int) -> bool:
        return self._matcher.validate_tokens([token_id]) == 1 and self._matcher.consume_token(token_id)

    def can_end(self) -> bool:
        return self._matcher.is_accepting()

    def num_forced(self, token_ids: list[int]) -> int:
        forced = self._matcher.compute_ff_tokens()
        pairs = zip(forced, token_ids, strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


class XGrammar:
    """xgrammar with compact JSON, too, and schemas that are not closed by default, as in JSON Schema."""

    def __init__(self, options: argparse.Namespace) -> None:
        import transformers  # not a dependency of the other library
        import xgrammar

        self._xgrammar = xgrammar
        self.tokenizer = tokenizer_of(options)
        fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(options.tokenizer))
        info = xgrammar.TokenizerInfo.from_huggingface(
            fast, vocab_size=options.vocab_size, stop_token_ids=[options.eos_token_id]
        )
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._mask = xgrammar.allocate_token_bitmask(1, options.vocab_size)
        self._eos_token_id = options.eos_token_id
        self._kept: list[Any] = []

    def compile(self, schema: Any) -> Any:
        compiled = self._compiler.compile_json_schema(
            json.dumps(schema), any_whitespace=False, separators=(",", ":"), strict_mode=False
        )
        self._kept.append(compiled)
        return compiled

    def matcher(self, compiled: Any) -> Matcher:
        return _XGMatcher(self._xgrammar.GrammarMatcher(compiled), self._mask, self.tokenizer, self._eos_token_id)


class _XGMatcher:
    def __init__(self, matcher: Any, mask: Any, tokenizer: llguidance.LLTokenizer, eos_token_id: int) -> None:
        self._matcher = matcher
        self._mask = mask
        self._tokenizer = tokenizer
        self._eos_token_id = eos_token_id

    def fill_mask(self) -> None:
        self._matcher.fill_next_token_bitmask(self._mask)

    def accept(self, token_id: int) -> bool:
        return bool(self._matcher.accept_token(token_id))

    def can_end(self) -> bool:
        return bool(self._matcher.accept_token(self._eos_token_id))

    def num_forced(self, token_ids: list[int]) -> int:
        forced = self._matcher.find_jump_forward_string().encode()
        for index, token_id in enumerate(token_ids):
            text = self._tokenizer.decode_bytes([token_id])
            if not forced.startswith(text):
                return index
            forced = forced[len(text) :]
        return len(token_ids)


def tokenizer_of(options: argparse.Namespace) -> llguidance.LLTokenizer:
    text = options.tokenizer.read_text(encoding="utf-8")
    return llguidance.LLTokenizer(text, n_vocab=options.vocab_size, eos_token=[options.eos_token_id])
