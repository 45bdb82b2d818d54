"""What Ollama's clients may say of how long a model stays loaded."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from server.protocols.ollama.loading import keep_alive_s

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (90, 90.0),
        ("90", 90.0),
        ("1.5", 1.5),
        ("0s", 0.0),
        ("-0", 0.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("1.h", 3600.0),
        (".5s", 0.5),
        ("250ms", 0.25),
        ("2m500ms", 120.5),
        (-1, math.inf),
        ("-1", math.inf),
        ("-5m", math.inf),
    ],
)
def test_numbers_are_seconds_and_durations_are_as_go_writes_them(value: float | str, seconds: float) -> None:
    assert keep_alive_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [999_999_999_999, 10**400, 1e300, "999999999999", "9" * 400, "9999999999h"])
def test_more_than_ten_years_is_for_good(value: float | str) -> None:
    assert keep_alive_s(value) == math.inf


@pytest.mark.parametrize("value", ["", "soon", "5 m", ".s", "1..5s", "5m!", "m", "1e3"])
def test_what_is_no_duration_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest, match=r"keep_alive is .*duration such as") as caught:
        keep_alive_s(value)
    assert caught.value.param == "keep_alive"


@pytest.mark.parametrize("text", ["1" * 100_000, "." + "1" * 100_000, "1." * 50_000, "1s" * 50_000])
def test_a_long_text_without_a_unit_at_its_end_is_refused_at_once(text: str) -> None:
    with pytest.raises(InvalidRequest):
        keep_alive_s(text + "x")  # this took minutes, or hours


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["ns", "us", "ms", "s", "m", "h"])), min_size=1))
def test_parts_add_up(parts: list[tuple[int, str]]) -> None:
    whole = keep_alive_s("".join(f"{number}{unit}" for number, unit in parts))
    total = sum(keep_alive_s(f"{number}{unit}") for number, unit in parts)
    assert whole == pytest.approx(total) or whole == math.inf
