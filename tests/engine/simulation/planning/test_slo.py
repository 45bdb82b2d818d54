"""Limits of time: their text, and the loads that miss them."""

import dataclasses

import pytest

from engine.errors import OptionError
from engine.simulation.planning.slo import parse_slo, show_amount, show_s
from engine.simulation.results import Percentiles
from engine.simulation.trace import TraceRequest
from tests.engine.simulation.test_fleet import result_of

pytestmark = pytest.mark.fast


def test_limits_are_read_in_both_units() -> None:
    assert parse_slo("ttft=1.5s, tpot=50ms,request=1s").limits_s == {"ttft": 1.5, "tpot": 0.05, "request": 1.0}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "such as ttft=1s,tpot=50ms; there are ttft, tpot, request"),
        ("ttft", "such as ttft=1s,tpot=50ms"),
        ("speed=1s", "has 'speed', which is no limit; .*there are ttft, tpot, request"),
        ("ttft=1", "has ttft=1; the time must be above 0, with ms or s"),
        ("ttft=0ms", "has ttft=0ms; the time must be above 0"),
        ("ttft=-1s", "has ttft=-1s"),
        ("ttft=1s,ttft=2s", "has ttft twice"),
    ],
)
def test_other_texts_are_refused(text: str, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        parse_slo(text)


def test_the_95th_percentile_decides() -> None:
    result = result_of([TraceRequest(0.0, 4, 3)])
    slow = dataclasses.replace(result, ttft_s=Percentiles(0.1, 0.1, 0.3, 9.0), token_s=None)
    assert parse_slo("ttft=300ms,tpot=1ms").misses(slow) == []
    (miss,) = parse_slo("ttft=299ms,tpot=1ms").misses(slow)
    assert str(miss) == "time to the first token is 300 ms (p95), above 299 ms"


def test_times_have_three_digits() -> None:
    assert [show_s(each) for each in (12.345, 1.0, 0.0123456)] == ["12.3 s", "1 s", "12.3 ms"]


def test_amounts_have_no_exponent() -> None:
    assert [show_amount(each) for each in (0.5234, 8.0, 43.21, 1023, 2e5)] == ["0.523", "8", "43.2", "1,023", "200,000"]
