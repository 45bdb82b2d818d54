"""Random schemas: what the grammar accepts is valid, and what is valid is accepted in some order of properties."""

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import llguidance
import pytest

from engine.errors import InvalidRequest
from server.structured_outputs.grammar import GrammarBuilder
from server.structured_outputs.json_schema.preparation import prepare_schema
from tests.server.structured_outputs.conftest import SPECIAL_IDS, byte_tokenizer
from tests.server.structured_outputs.json_schema.validator import is_valid

pytestmark = pytest.mark.fast

_NUM_SCHEMAS = 400
_NUM_VALUES = 25
_NAMES = "abc"
_TYPES = ["object", "object", "array", "string", "integer", "number", "null", ["string", "integer"], ["object", "null"]]
_LEAVES = ["enum", "const", "minimum", "exclusiveMaximum", "minLength", "maxItems", "required", "minProperties"]
_LEAVES += ["maxProperties", "pattern", "uniqueItems", "dependentRequired"]
_BRANCHES = ["properties", "properties", "items", "prefixItems", "additionalProperties", "allOf", "anyOf", "oneOf"]
_BRANCHES += ["oneOf", "not", "not", "if", "dependentSchemas", "propertyNames", "contains", "$ref"]


def _scalar(rng: random.Random) -> Any:
    return rng.choice([None, True, False, 0, 1, 2, 1.5, "", "a", "b", "ab"])


def _value(rng: random.Random, depth: int = 2) -> Any:
    kind = rng.random()
    if depth == 0 or kind < 0.4:
        return _scalar(rng)
    if kind < 0.6:
        return [_value(rng, depth - 1) for _ in range(rng.randrange(3))]
    return {name: _value(rng, depth - 1) for name in _NAMES + "x" if rng.random() < 0.45}


def _schema(rng: random.Random, depth: int = 3) -> Any:
    if rng.random() < 0.08:
        return rng.choice([True, False, {}])
    schema: dict[str, Any] = {"type": rng.choice(_TYPES)} if rng.random() < 0.55 else {}
    for _ in range(rng.randrange(1, 3)):
        keyword = rng.choice(_LEAVES + _BRANCHES if depth else _LEAVES)
        schema[keyword] = _rule(rng, keyword, depth)
        if keyword == "if":
            schema |= {"then": _schema(rng, depth - 1), "else": _schema(rng, depth - 1)}
    return schema


def _rule(rng: random.Random, keyword: str, depth: int) -> Any:
    match keyword:
        case "enum":
            return [_scalar(rng) for _ in range(rng.randrange(1, 4))]
        case "const":
            return rng.choice([_scalar(rng), [], {}, {"a": 1}])
        case "minimum" | "exclusiveMaximum":
            return rng.choice([0, 1, 1.5, 2])
        case "minLength" | "maxItems" | "minProperties" | "maxProperties":
            return rng.randrange(3)
        case "required":
            return [name for name in _NAMES if rng.random() < 0.5]
        case "pattern":
            return rng.choice(["^a", "b$", "^(a|b)$"])
        case "uniqueItems":
            return True
        case "dependentRequired":
            return {rng.choice(_NAMES): [rng.choice(_NAMES)]}
        case "propertyNames":
            return rng.choice([{"enum": ["a", "b"]}, {"maxLength": 1}, {"pattern": "^[ab]"}])
        case "$ref":
            return "#/$defs/" + rng.choice("pq")
        case "properties":
            return {name: _schema(rng, depth - 1) for name in _NAMES if rng.random() < 0.5}
        case "dependentSchemas":
            return {rng.choice(_NAMES): _schema(rng, depth - 1)}
        case "allOf" | "anyOf" | "oneOf" | "prefixItems":
            return [_schema(rng, depth - 1) for _ in range(rng.randrange(1, 4))]
    return _schema(rng, depth - 1)


def _orders(value: Any) -> Iterator[Any]:
    """The value with its properties in all orders."""
    if isinstance(value, list):
        yield from map(list, itertools.product(*(list(itertools.islice(_orders(item), 24)) for item in value)))
    elif isinstance(value, dict):
        for names in itertools.permutations(value):
            inner = [list(itertools.islice(_orders(value[name]), 24)) for name in names]
            yield from (dict(zip(names, items, strict=True)) for items in itertools.product(*inner))
    else:
        yield value


@pytest.fixture(scope="module")
def tokenizer() -> llguidance.LLTokenizer:
    return byte_tokenizer()


@pytest.mark.parametrize("seed", range(4))
def test_grammar_accepts_what_is_valid(seed: int, tokenizer: llguidance.LLTokenizer) -> None:
    rng = random.Random(seed)
    num_compared = 0
    for _ in range(_NUM_SCHEMAS // 4):
        schema = _schema(rng)
        if isinstance(schema, dict):
            schema["$defs"] = {"p": _schema(rng, 1), "q": _schema(rng, 1)}
        matcher = _matcher(schema, tokenizer)
        for value in [_value(rng) for _ in range(_NUM_VALUES)] if matcher else []:
            num_compared += 1
            orders = itertools.islice(_orders(value), 2_000)
            if is_valid(value, schema):
                assert any(_accepts(matcher, order, tokenizer) for order in orders), (schema, value)
            else:
                assert not _accepts(matcher, value, tokenizer), (schema, value)
    assert num_compared > _NUM_VALUES * 50


def _matcher(schema: Any, tokenizer: llguidance.LLTokenizer) -> llguidance.LLMatcher | None:
    """None for a schema that is refused."""
    builder = GrammarBuilder(SPECIAL_IDS)
    try:
        prepared = prepare_schema(schema, param="schema", is_strict=True)
    except InvalidRequest:
        return None
    grammar = builder.build(builder.json(prepared.schema))
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    return None if matcher.is_error() else matcher


def _accepts(matcher: llguidance.LLMatcher | None, value: Any, tokenizer: llguidance.LLTokenizer) -> bool:
    assert matcher is not None
    copy = matcher.deep_copy()
    token_ids = tokenizer.tokenize_str(json.dumps(value, separators=(",", ":")))
    return copy.validate_tokens(token_ids) == len(token_ids) and copy.consume_tokens(token_ids) and copy.is_accepting()
