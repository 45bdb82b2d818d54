"""Fixtures of the tests of grammars: whether llguidance matches a text with a grammar."""

import json
from collections.abc import Callable
from typing import Any

import llguidance
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from server.structured_outputs.grammar import GrammarBuilder
from server.structured_outputs.json_schema.preparation import prepare_schema

SPECIAL_IDS = {"<s>": 0, "</s>": 1, "<tool>": 2, "</tool>": 3}

Matches = Callable[[str, str], bool]
Accepts = Callable[..., bool]


def byte_tokenizer() -> llguidance.LLTokenizer:
    """Every byte is a token, behind the special ones."""
    tokens = [*SPECIAL_IDS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_IDS])
    return llguidance.LLTokenizer(tokenizer.to_str(), n_vocab=len(tokens), eos_token=[1])


@pytest.fixture(scope="session")
def matches() -> Matches:
    """matches(grammar, text): whether the whole text matches; special tokens are spelled in it."""
    tokenizer = byte_tokenizer()
    compiled: dict[str, llguidance.LLMatcher] = {}

    def run(grammar: str, text: str) -> bool:
        if grammar not in compiled:
            compiled.clear()
            compiled[grammar] = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
        matcher = compiled[grammar].deep_copy()
        assert not matcher.is_error(), matcher.get_error()
        token_ids = tokenizer.tokenize_str(text, parse_special=True)
        if matcher.validate_tokens(token_ids) < len(token_ids):
            return False
        return bool(not token_ids or matcher.consume_tokens(token_ids)) and matcher.is_accepting()

    return run


@pytest.fixture(scope="session")
def accepts(matches: Matches) -> Accepts:
    """accepts(schema, value): whether the schema, prepared under strict, allows the value's compact JSON."""

    def run(schema: Any, value: Any, *, is_strict: bool = True) -> bool:
        builder = GrammarBuilder(SPECIAL_IDS)
        prepared = prepare_schema(schema, param="schema", is_strict=is_strict)
        grammar = builder.build(builder.json(prepared.schema))
        return matches(grammar, json.dumps(value, separators=(",", ":"), ensure_ascii=False))

    return run
