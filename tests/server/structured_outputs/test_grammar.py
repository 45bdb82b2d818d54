"""GrammarBuilder: what its expressions match."""

import pytest

from server.structured_outputs.grammar import GrammarBuilder, one_of
from tests.server.structured_outputs.conftest import SPECIAL_IDS, Matches

pytestmark = pytest.mark.fast


@pytest.fixture
def builder() -> GrammarBuilder:
    return GrammarBuilder(SPECIAL_IDS)


@pytest.mark.parametrize("text", ["a", 'quote " and \\ and /', "two\nlines", "é😀", "<not special>", "// no comment"])
def test_literal_matches_exactly_its_text(builder: GrammarBuilder, matches: Matches, text: str) -> None:
    grammar = builder.build(builder.literal(text))

    assert matches(grammar, text)
    assert not matches(grammar, text + "a")


def test_literal_that_is_empty_matches_nothing_more(builder: GrammarBuilder, matches: Matches) -> None:
    grammar = builder.build(f"{builder.literal('')} {builder.literal('a')}")

    assert matches(grammar, "a")


def test_literal_with_special_tokens_matches_these(builder: GrammarBuilder, matches: Matches) -> None:
    grammar = builder.build(builder.literal("a<tool>b</tool>"))

    assert matches(grammar, "a<tool>b</tool>")
    assert not matches(grammar, "ab")


@pytest.mark.parametrize(
    ("pattern", "text", "other"),
    [("a/b", "a/b", "ab"), (r"a\/b", "a/b", "a\\/b"), ("[0-9]+", "12", ""), ("a\nb", "a\nb", "anb")],
)
def test_regex_matches_as_a_whole(
    builder: GrammarBuilder, matches: Matches, pattern: str, text: str, other: str
) -> None:
    grammar = builder.build(builder.regex(pattern))

    assert matches(grammar, text)
    assert not matches(grammar, other)
    assert not matches(grammar, text + "x")


def test_catastrophic_regex_is_harmless(builder: GrammarBuilder, matches: Matches) -> None:
    grammar = builder.build(builder.regex("(a+)+b"))

    assert not matches(grammar, "a" * 2_000)


def test_json_matches_what_the_schema_allows(builder: GrammarBuilder, matches: Matches) -> None:
    grammar = builder.build(builder.json({"type": "integer"}))

    assert matches(grammar, "12")
    assert not matches(grammar, '"12"')


def test_lark_grammar_has_names_of_its_own(builder: GrammarBuilder, matches: Matches) -> None:
    first = builder.lark('start: r0\nr0: "a"')
    second = builder.rule(builder.lark('start: r0\nr0: "b"'))
    grammar = builder.build(f"{first} {second}")

    assert matches(grammar, "ab")


def test_text_has_no_special_tokens(builder: GrammarBuilder, matches: Matches) -> None:
    grammar = builder.build(builder.text())

    assert matches(grammar, "")
    assert matches(grammar, "any\n{text}")
    assert not matches(grammar, "a<tool>")


@pytest.mark.parametrize("mark", ["END", "<tool>", "</tool>\n", "END</tool>"])
def test_text_until_ends_with_the_first_mark(builder: GrammarBuilder, matches: Matches, mark: str) -> None:
    grammar = builder.build(f"{builder.text_until(mark)} {builder.literal('!')}")

    assert matches(grammar, f"some text{mark}!")
    assert matches(grammar, f"{mark}!")
    assert not matches(grammar, f"some{mark}text{mark}!")


def test_rule_may_be_repeated(builder: GrammarBuilder, matches: Matches) -> None:
    grammar = builder.build(builder.rule(builder.literal("ab"), builder.literal("c")) + "*")

    assert all(matches(grammar, text) for text in ("", "ab", "cabc"))
    assert not matches(grammar, "a")


def test_one_of_matches_one_text(builder: GrammarBuilder, matches: Matches) -> None:
    grammar = builder.build(one_of(builder, ["yes", "yes!", "<tool>"]))

    assert all(matches(grammar, text) for text in ("yes", "yes!", "<tool>"))
    assert not matches(grammar, "no")
