"""Where a completion in an editor ends: at a line that leaves the block, or when its time is over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.generation.infill.line_limits import LineLimits, LineOptions

pytestmark = pytest.mark.fast


def _push(text: str, pieces: int, **options: float) -> tuple[str, bool]:
    now = 0.0
    limits = LineLimits(LineOptions(**options), clock=lambda: now)  # type: ignore[arg-type]
    result = ""
    for start in range(0, len(text), pieces):
        now = float(start)
        result += limits.push(text[start : start + pieces])
        if limits.is_reached:
            break
    return result, limits.is_reached


@pytest.mark.parametrize("pieces", [1, 3, 100])
@pytest.mark.parametrize(
    ("text", "min_indent", "expected", "is_reached"),
    [
        ("a\n    b\nc", 4, "a\n    b\n", True),
        ("a\n    b\n  c", 4, "a\n    b\n  ", True),
        ("a\n    b\n\n    c", 4, "a\n    b\n\n    c", False),
        ("a\n    b\n \n    c", 4, "a\n    b\n \n    c", False),
        ("a\n\tb\nc", 1, "a\n\tb\n", True),
        ("a", 4, "a", False),
        ("a\nb", 0, "a\nb", False),
    ],
)
def test_a_line_with_less_indentation_ends_the_text(
    text: str, min_indent: int, expected: str, is_reached: bool, pieces: int
) -> None:
    assert _push(text, pieces, min_indent=min_indent) == (expected, is_reached)


@given(st.text(alphabet="a \t\n", max_size=30), st.integers(1, 4), st.integers(1, 30))
def test_the_end_does_not_depend_on_how_the_text_comes(text: str, min_indent: int, pieces: int) -> None:
    assert _push(text, pieces, min_indent=min_indent) == _push(text, 1, min_indent=min_indent)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abcdefgh", "abcdefgh"),  # no line is complete
        ("ab\ncdefgh", "ab\ncde"),
        ("abcdef\ngh", "abcdef\n"),
    ],
)
def test_time_ends_a_text_with_a_complete_line(text: str, expected: str) -> None:
    assert _push(text, 1, max_s=4.5) == (expected, text != expected)


def test_without_options_nothing_is_limited() -> None:
    assert LineOptions().limits() is None
