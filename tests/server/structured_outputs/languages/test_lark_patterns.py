"""A Lark grammar as a pattern matches the same texts as the grammar does, inside a JSON string too."""

import json

import pytest

from server.structured_outputs.languages.lark_patterns import pattern_of_lark
from tests.server.structured_outputs.conftest import Matches

pytestmark = pytest.mark.fast

# The form of the grammars of agents that edit files.
PATCH = r"""
start: begin hunk+ end
begin: "*** Begin" LF
end: "*** End" LF?
hunk: add_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
update_hunk: "*** Update File: " filename LF (context | change)+ end_of_file?
filename: /(.+)/
add_line: "+" /(.*)/ LF -> line
context: ("@@" | "@@ " /(.+)/) LF
change: ("+" | "-" | " ") /(.*)/ LF
end_of_file: "*** End of File" LF
%import common.LF
"""
NUMBERS = r"""
// a sum, of at most three
start: NUMBER (_op NUMBER)~0..2 ["!"]
_op: " "~1 SIGN " "~1
SIGN.2: "+"
      | "-"   // and no other
NUMBER: "0".."9"+ | "\u00e9" | /[\/"\\]/
"""


@pytest.mark.parametrize(
    ("grammar", "texts", "others"),
    [
        (
            PATCH,
            [
                '*** Begin\n*** Add File: a.txt\n+Grüße "you"\n+\n*** End\n',
                "*** Begin\n*** Update File: b\n@@ f()\n-\tx\n+ \\y\n*** End of File\n*** Add File: c\n+1\n*** End",
            ],
            [
                "",
                "*** Begin\n*** End\n",
                "*** Begin\n*** Add File: \n+x\n*** End\n",
                "*** Begin\n*** Add File: a\nx\n*** End",
            ],
        ),
        (NUMBERS, ["7", "12 + é - /!", '"', "\\ - 0"], ["", "a", "1+2", "1 + 2 - 3 + 4", "1 - ", "1 * 2"]),
        ('start: "a" "b"? | ("c" | "d")+', ["a", "ab", "cdc"], ["b", "ac", ""]),
        ("start: WORD (WS_INLINE WORD)*\n%import common (WORD, WS_INLINE)", ["to be"], ["to be ", ""]),
    ],
)
def test_the_pattern_matches_what_the_grammar_matches(
    matches: Matches, grammar: str, texts: list[str], others: list[str]
) -> None:
    pattern = pattern_of_lark(grammar)
    assert pattern is not None
    quoted = json.dumps({"type": "string", "pattern": f"^(?:{pattern})$"})
    for text in [*texts, *others]:
        assert matches(f"start: %json {quoted}", json.dumps(text, ensure_ascii=False)) is (text in texts), text


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "a" start?',
        'start: a\na: "(" b ")"\nb: a | "x"',
        'start: "a"\n%ignore " "',
        'start: "a"i',
        "start: /a/i",
        "start: /a(?=b)/",
        "start: other",
        'begin: "a"',
        'start: "a" "b',
        'start: ("a"',
        'start: "a")',
        'start: ["a")',
        "start: %json {}",
        'start: "b".."a"',
        "start: /(/",
        "start: " + "(" * 200 + '"a"' + ")" * 200,
        "start: a0\n" + "\n".join(f"a{i}: a{i + 1} a{i + 1}" for i in range(40)) + '\na40: "x"',
        '"a"',
        "%import common.ESCAPED_STRING\nstart: ESCAPED_STRING",
    ],
)
def test_what_has_no_pattern_has_none(grammar: str) -> None:
    assert pattern_of_lark(grammar) is None
