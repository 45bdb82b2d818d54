"""Checks: which answers pass, and the reasons of the others."""

from typing import Any

import msgspec
import pytest

from server.synthesis.checks import AnyCheck, Pool, cut_fault, first_fault

pytestmark = pytest.mark.fast

CALL = {"function": {"name": "weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("check", "values", "fault"),
    [
        ({"check": "occurs", "field": "q", "within": "d"}, {"q": "The “Red”  Fox", "d": "x the “red” fox y"}, None),
        ({"check": "occurs", "field": "q", "within": "d"}, {"q": "a red dog", "d": "a red fox"}, "q is not in d"),
        ({"check": "occurs", "field": "q", "within": "d"}, {"q": "red", "d": "red"}, "q is too short"),
        ({"check": "least", "field": "n", "value": 4}, {"n": 4}, None),
        ({"check": "least", "field": "n", "value": 4}, {"n": 3}, "n is too low"),
        ({"check": "least", "field": "n", "value": 4}, {"n": "5"}, "n is too low"),
        ({"check": "equals", "field": "b", "value": True}, {"b": True}, None),
        ({"check": "equals", "field": "b", "value": True}, {"b": False}, "b is another"),
        (
            {"check": "differs", "field": "a", "other": "b"},
            {"a": "one two three", "b": "One, two, three!"},
            "a is as b",
        ),
        ({"check": "differs", "field": "a", "other": "b"}, {"a": "one two three", "b": "four two three"}, None),
        ({"check": "length", "field": "a", "least": 2, "most": 3}, {"a": "one"}, "a is too short"),
        ({"check": "length", "field": "a", "least": 2, "most": 3}, {"a": "one two"}, None),
        ({"check": "length", "field": "a", "least": 2, "most": 3}, {"a": "1 2 3 4"}, "a is too long"),
        ({"check": "lacks", "field": "a", "phrases": ["The Text"]}, {"a": "see the  text"}, "a has 'The Text'"),
        ({"check": "lacks", "field": "a", "phrases": ["The Text"]}, {"a": "the textbook"}, None),
        ({"check": "calls", "field": "c", "tool": "t"}, {"c": [CALL], "t": "weather"}, None),
        ({"check": "calls", "field": "c", "tool": "t"}, {"c": [CALL, CALL], "t": "news"}, "c is of another tool"),
        (
            {"check": "calls", "field": "c", "tool": "t"},
            {"c": [CALL], "t": {"name": "weather"}},
            "c is of another tool",
        ),
    ],
)
def test_checks(check: dict[str, Any], values: dict[str, Any], fault: str | None) -> None:
    assert first_fault([msgspec.convert(check, AnyCheck)], values, Pool()) == fault


def test_new_texts_are_kept_apart_from_all_before() -> None:
    check, pool = msgspec.convert({"check": "new", "field": "a"}, AnyCheck), Pool()
    faults = [
        first_fault([check], {"a": text}, pool)
        for text in (
            "name ten big red fruits",
            "Name ten big, red trees!",
            "name two of our oceans",
            "",
            "name ten trees",
        )
    ]
    assert faults == [None, "a is not new", None, "a is empty", None]


@pytest.mark.parametrize(
    ("text", "is_cut"),
    [
        ("How long do I boil an egg? I'm a" + "n" * 68, True),
        ("a" * 99 + ".", True),  # the sentence may have gone on, or another one have followed
        ("a" * 96, True),  # no word that the model wanted fits into the rest
        ("a" * 96 + '."', False),
        ("水" * 96 + "。", False),
        ("a" * 90 + " (a list)", False),
        ("def f(x):\n" + "x" * 84 + "\n```", False),
        ('{"a": "' + "b" * 89 + '"}', False),
        ("a" * 96 + " 👍🏽", False),
        ("a" * 95 + " ❤\ufe0f", False),
        ("ế" * 96, True),  # Vietnamese has blanks
        ("ไ" * 99, False),  # Thai has no sign for the end of a sentence
        ("水" * 99, False),
        ("水" * 100, True),
        ("a" * 94, False),
        (7, False),
    ],
)
def test_a_text_that_its_most_characters_end_is_cut_off(text: object, is_cut: bool) -> None:
    assert cut_fault({"ask": 100}, {"ask": text, "other": "b" * 100}) == ("ask is cut off" if is_cut else None)
