"""Regular expressions: unsupported constructs, and patterns that are written."""

import re

import pytest

from server.structured_outputs.languages.patterns import all_texts_but, largest_repeat, texts_of, unsupported_construct

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("pattern", "construct"),
    [
        ("(?=a)", "the lookahead (?="),
        ("a(?!b)", "the lookahead (?!"),
        ("(?<=a)b", "the lookbehind (?<="),
        ("(?<!a)b", "the lookbehind (?<!"),
        (r"(a)\1", r"the backreference \1"),
        (r"(?P<x>a)(?P=x)", "the backreference (?P="),
        (r"\bword", r"the word boundary \b"),
        ("(?>a)", "the atomic group (?>"),
    ],
)
def test_unsupported_construct_is_named(pattern: str, construct: str) -> None:
    assert unsupported_construct(pattern) == construct


@pytest.mark.parametrize("pattern", ["(?:a)", "(?P<x>a)", r"\(?=", "[(?=]", r"[\b]", r"\\1", "(?i)a", "(?<x>a)", "a+?"])
def test_supported_patterns_pass(pattern: str) -> None:
    assert unsupported_construct(pattern) is None


def test_largest_repeat_reads_all_forms() -> None:
    assert largest_repeat("a{3}b{2,70}c{50,}") == 70
    assert largest_repeat("a+") == 0


def test_texts_of_simple_choices() -> None:
    assert texts_of("^(a|b-c)$") == {"a", "b-c"}
    assert texts_of("^a$") == {"a"}
    assert texts_of("^a") is None
    assert texts_of("^(a+|b)$") is None


@pytest.mark.parametrize("texts", [[""], ["a"], ["a", "ab", "b"], ["", "].^$", "é\n"], ["x" * 80]])
def test_all_texts_but_leaves_out_these_alone(texts: list[str]) -> None:
    pattern = re.sub(r"\\x\{([0-9a-f]+)\}", lambda match: re.escape(chr(int(match[1], 16))), all_texts_but(texts))

    assert not any(re.fullmatch(pattern[1:-1], text) for text in texts)
    others = ["q", "aa", "ba", "abc", "\n", *(text + "a" for text in texts), *(text[:-1] for text in texts)]
    assert all(re.fullmatch(pattern[1:-1], text) for text in others if text not in texts)
