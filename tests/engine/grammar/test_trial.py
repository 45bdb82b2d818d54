"""try_grammar: the errors that a client gets for a schema that contradicts itself."""

import json
from typing import Any

import pytest

from engine.grammar.trial import try_grammar
from tests.helpers.grammars import TOO_COMPLEX_AT_ONCE, ledger_vocabulary

pytestmark = pytest.mark.fast

_DEFINITIONS = {"least": {"minimum": 5}, "text": {"type": "string"}, "few": {"enum": ["a", "b"]}}
_NO_VALUE = {"properties": {"k": {"$ref": "#/$defs/text", "type": "integer"}}, "required": ["k"], "type": "object"}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "#/$defs/least", "maximum": 1, "type": "integer"}, "minimum (5) is greater than maximum (1)"),
        ({"$ref": "#/$defs/text", "type": "integer"}, "types that are asked for together exclude each other"),
        ({"$ref": "#/$defs/few", "enum": ["c"]}, "no text has the pattern, format, length and constants"),
        ({"type": "string", "pattern": "^a$", "minLength": 3}, "no text has the pattern, format, length and constants"),
        (_NO_VALUE, "the required property k can have no value"),
    ],
)
def test_a_contradiction_is_reported_in_plain_words(schema: dict[str, Any], reason: str) -> None:
    grammar = json.dumps(
        {"grammars": [{"lark_grammar": f"start: %json {json.dumps({**schema, '$defs': _DEFINITIONS})}"}]}
    )
    error = try_grammar(ledger_vocabulary(), grammar).error
    assert error.startswith(f"no value matches it: {reason}")
    assert error.endswith("change what contradicts")
    assert "Regex" not in error


def test_a_grammar_that_can_be_followed_has_no_error() -> None:
    trial = try_grammar(ledger_vocabulary(), json.dumps({"grammars": [{"json_schema": {"enum": ["a", "b"]}}]}))
    assert trial.error == ""


def test_a_grammar_that_takes_too_much_work_after_its_first_token_is_refused() -> None:
    assert try_grammar(ledger_vocabulary(), TOO_COMPLEX_AT_ONCE).error.startswith("following it takes too much work")
