"""Formulas: arithmetic over rewards, and nothing else."""

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.command_io.finetuning.graders.faults import FaultKind, Ungradable
from engine.command_io.finetuning.graders.formula import is_variable, parse_formula
from engine.errors import InvalidRequest

pytestmark = pytest.mark.fast

NAMES = ("a", "b_1", "größe")


def _value(text: str, a: float = 0.5, b: float = 2.0) -> float:
    return parse_formula(text, NAMES, "f").value({"a": a, "b_1": b, "größe": 1.0})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", 0.5),
        (" (a + b_1) / 2 ", 1.25),
        ("0.5 * a + 0.5 * b_1", 1.25),
        ("-b_1 ^ 2", -4),
        ("2 ^ b_1 ^ 3", 2**8),
        ("b_1 ** 2 * 3", 12),
        ("a + b_1 ^ 2", 4.5),
        ("min(a, b_1, 1) + max(a, 3)", 3.5),
        ("min(a)", 0.5),
        ("abs(-a) + floor(a) + ceil(a)", 1.5),
        ("exp(a - a) + sqrt(b_1 * 2) + log(größe)", 3.0),
        ("1e2 * a", 50),
        ("+a", 0.5),
    ],
)
def test_a_formula_has_its_value(text: str, expected: float) -> None:
    assert _value(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "2 * 3",
        "abs",
        "c",
        "a +",
        "a; b_1",
        "a = 1",
        "a, b_1",
        "[a]",
        "a if b_1 else 1",
        "a and b_1",
        "a < b_1",
        "not a",
        "~a",
        "a % 2",
        "a // 2",
        "a @ 2",
        "a | 1",
        "a << 2",
        "a.real",
        "a[0]",
        "a()",
        "a(b_1)",
        "f(a)",
        "abs(a).real",
        "abs(a, b_1)",
        "abs()",
        "min()",
        "min(*a)",
        "min(a, key=b_1)",
        "abs(x=a)",
        "max(a for a in b_1)",
        "lambda: a",
        "(a := 1)",
        "f'{a}'",
        "'a'",
        "b'a'",
        "a + True",
        "a + None",
        "a + ...",
        "a * 1j",
        "a * 1e999",
        "a * 1" + "0" * 400,
        "a * 1" + "0" * 5000,
        "__import__('os').system('true')",
        "().__class__",
        "a\nb_1",
        "a\0",
        "a # b",
        "(" * 500 + "a" + ")" * 500,
        "-" * 1500 + "a",
        "+".join(["a"] * 200),
        "a" * 3000,
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    if text == "a # b":  # a comment is nothing
        assert _value(text) == 0.5
        return
    with pytest.raises(InvalidRequest) as caught:
        parse_formula(text, NAMES, "grader.calculate_output")
    assert caught.value.param == "grader.calculate_output"


@pytest.mark.parametrize(
    "text",
    [
        "1_000 * a",
        "0x10 + a",
        "0b11 + a",
        "0o7 + a",
        "(a +\n 1_0)",
        "größe + 1_0",
        "\uff41 + 1",
        "\uff41bs(a)",
        "b_\uff11",
    ],
)
def test_what_python_alone_reads_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"it may have .* parentheses, numbers, and"):
        parse_formula(text, NAMES, "f")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1. * a", 0.5), (".5 * a", 0.25), ("1E+2 * a", 50), ("(a +\n größe + 1e-1)", 1.6), ("größe+10+größe", 12)],
)
def test_numbers_are_written_as_everywhere(text: str, expected: float) -> None:
    assert _value(text) == pytest.approx(expected)


def test_a_name_may_be_written_with_marks_of_their_own() -> None:
    assert _value(unicodedata.normalize("NFD", "größe")) == 1.0


@pytest.mark.parametrize("depth", [300, 900])
def test_a_formula_that_is_nested_too_deeply_says_so(depth: int) -> None:
    with pytest.raises(InvalidRequest, match="f is nested too deeply; simplify it"):
        parse_formula("(" * depth + "a" + ")" * depth, NAMES, "f")
    assert _value("(" * 20 + "a" + ")" * 20) == 0.5


@pytest.mark.parametrize(
    ("text", "a"),
    [
        ("1 / a", 0.0),
        ("log(a)", 0.0),
        ("sqrt(a)", -1.0),
        ("a ^ 0.5", -1.0),
        ("a ^ (-1)", 0.0),
        ("exp(1000 * a)", 1.0),
        ("1e308 * 10 * a", 1.0),
        ("10 ^ 10 ^ 10 * a", 1.0),
        ("floor(1e308 * 10 * a)", 1.0),
        ("1e308 * 10 * a - 1e308 * 10 * a", 1.0),
    ],
)
def test_what_has_no_value_is_a_fault_of_the_sample(text: str, a: float) -> None:
    with pytest.raises(Ungradable) as caught:
        _value(text, a)
    assert caught.value.fault.kind is FaultKind.FORMULA


def test_names_that_a_formula_cannot_have() -> None:
    assert [name for name in ("a", "_1", "größe", "名前") if not is_variable(name)] == []
    assert [
        name for name in ("", "1a", "a-b", "a b", "a.b", "min", "exp", "if", "None", "ﬁ") if is_variable(name)
    ] == []


@st.composite
def _formulas(draw: st.DrawFn, depth: int = 4) -> tuple[str, str]:
    """A formula, and the same in Python with floats."""
    kind = draw(st.sampled_from(["name", "number", "unary", "binary", "call", "some"])) if depth else "name"
    if kind == "name":
        name = draw(st.sampled_from(("a", "b_1")))
        return name, name
    if kind == "number":
        number = repr(draw(st.floats(0, 1e6)))
        return number, number
    one, other = draw(_formulas(depth - 1))
    if kind == "unary":
        return f"(-{one})", f"(-{other})"
    if kind == "call":
        return f"abs({one})", f"abs({other})"
    two, another = draw(_formulas(depth - 1))
    if kind == "some":
        name = draw(st.sampled_from(["min", "max"]))
        return f"{name}({one}, {two})", f"{name}({other}, {another})"
    sign = draw(st.sampled_from("+-*/^"))
    python = f"power({other}, {another})" if sign == "^" else f"({other} {sign} {another})"
    return f"({one} {sign} {two})", python


@given(_formulas(), st.floats(-10, 10), st.floats(-10, 10))
def test_a_formula_is_what_python_computes_of_it(formulas: tuple[str, str], a: float, b: float) -> None:
    text, python = formulas
    scope = {"a": a, "b_1": b, "abs": abs, "min": min, "max": max, "power": math.pow}
    try:
        expected = eval(f"float({python})", {"__builtins__": {}}, {**scope, "float": float})
    except (ArithmeticError, ValueError):
        expected = math.nan
    formula = parse_formula(f"{text} + 0 * a", NAMES, "f")
    try:
        assert formula.value({"a": a, "b_1": b}) == expected
    except Ungradable:
        assert not math.isfinite(expected)


@given(st.text(alphabet="ab_1+-*/^()., 0e9minxlog[]'\"\n{}:=", max_size=60), st.floats(allow_nan=False, width=32))
def test_no_text_does_more_than_give_a_number(text: str, reward: float) -> None:
    try:
        formula = parse_formula(text, NAMES, "f")
    except InvalidRequest:
        return
    try:
        value = formula.value(dict.fromkeys(NAMES, reward))
    except Ungradable:
        return
    assert isinstance(value, float)
    assert math.isfinite(value)
