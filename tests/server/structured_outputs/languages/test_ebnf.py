"""lark_of_ebnf: grammars that no text matches are refused, and no others."""

import pytest

from engine.errors import InvalidRequest
from server.structured_outputs.grammar import GrammarBuilder
from server.structured_outputs.languages.ebnf import lark_of_ebnf, num_ebnf_rules
from tests.server.structured_outputs.conftest import SPECIAL_IDS, Matches

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= root",
        'root ::= "a" root',
        'root ::= a | b\na ::= "x" b\nb ::= ("y" | "z") a',
        'root ::= b+\nb ::= "a" (b | b "c"){2}',
        'root ::= "a" (root | (root "c")) "d"?',
    ],
)
def test_grammar_that_no_text_matches_is_refused(grammar: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        lark_of_ebnf(grammar, "ebnf")
    assert caught.value.param == "ebnf"
    assert "no text" in str(caught.value)


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        ('root ::= a "x" | "y"\na ::= "(" a ")"', "y"),
        ('root ::= ("a" | b)* c?\nb ::= b b\nc ::= [a-z]{2,3} | (c | ("x" c))+', "aaxyz"),
        ('root ::= b{0,2} "end"\nb ::= b "\\" | root: q"', "end"),
        ('root ::= "(" root ")" | # the end\n  [^/"]', "((x))"),
        ('root ::= (("a" root) | "b")', "aab"),
        (
            'root ::= "SELECT " column " FROM " name\ncolumn ::= name | "SUM(" name ")"\nname ::= [a-z_]{1,20}',
            "SELECT SUM(price) FROM orders",
        ),
    ],
)
def test_grammar_with_a_text_matches_it(matches: Matches, grammar: str, text: str) -> None:
    builder = GrammarBuilder(SPECIAL_IDS)

    assert matches(builder.build(builder.lark(lark_of_ebnf(grammar, "ebnf"))), text)


def test_other_syntax_has_no_rules_of_ebnf() -> None:
    assert num_ebnf_rules('start: "a"') == 0
    assert num_ebnf_rules('root ::= a\na ::= "b"') == 2
