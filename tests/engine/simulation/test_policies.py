"""Policies of a front: which replica each takes, and policies from a user's file."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.errors import OptionError
from engine.simulation.policies import make_policy
from engine.simulation.trace import TraceRequest

pytestmark = pytest.mark.fast


@dataclass
class Seen:
    """A replica with fixed figures."""

    num_open: int = 0
    queued_tokens: int = 0
    cached: int = 0

    def num_cached(self, request: TraceRequest) -> int:
        return min(self.cached, request.num_prompt)


REQUEST = TraceRequest(0.0, 1500, 5, (3, 4, 5))


@pytest.mark.parametrize(
    ("policy", "replicas", "expected"),
    [
        ("least_open", [Seen(3), Seen(1), Seen(2)], 1),
        ("cost", [Seen(0, 900), Seen(9, 100), Seen(0, 500)], 1),
        ("cost", [Seen(0, 900, 850), Seen(0, 100), Seen(0, 500)], 0),
        ("prefix_affinity", [Seen(1, cached=10), Seen(1, cached=900), Seen(0)], 1),
        ("prefix_affinity", [Seen(1, cached=10), Seen(9, cached=900), Seen(2)], 0),
        ("power_of_two", [Seen(5), Seen(0)], 1),
        ("power_of_two", [Seen(5)], 0),
    ],
)
def test_a_policy_takes_the_replica_that_it_describes(policy: str, replicas: list[Seen], expected: int) -> None:
    assert make_policy(policy, 0)(REQUEST, replicas) == expected


def test_a_hash_stays_with_its_replica_until_it_is_overloaded() -> None:
    choose = make_policy("prefix_hash", 0)
    replicas = [Seen(4) for _ in range(4)]
    first = choose(REQUEST, replicas)
    assert choose(TraceRequest(0.0, 9000, 5, (3, 4, 6)), replicas) == first
    replicas[first].num_open = 9
    assert choose(REQUEST, replicas) == (first + 1) % 4


def test_a_policy_of_a_file_is_used(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("def choose(request, replicas):\n    return request.num_prompt % len(replicas)\n")
    assert make_policy(str(path), 0)(REQUEST, [Seen() for _ in range(7)]) == 1500 % 7


def test_a_number_of_numpy_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("import numpy\n\ndef choose(request, replicas):\n    return numpy.int64(1)\n")
    number = make_policy(str(path), 0)(REQUEST, [Seen(), Seen()])
    assert (number, type(number)) == (1, int)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("exit(3)", "cannot be run: SystemExit"),
        ("x = ", "cannot be run: SyntaxError"),
        ("x = 1", "defines no function choose"),
        (None, "FileNotFoundError"),
    ],
)
def test_a_file_without_a_policy_is_refused(tmp_path: Path, source: str | None, reason: str) -> None:
    path = tmp_path / "own.py"
    if source is not None:
        path.write_text(source)
    with pytest.raises(OptionError, match=reason):
        make_policy(str(path), 0)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("2", "returned 2; it must be a whole number from 0 to 1"),
        ("-1", "returned -1"),
        ("1.0", "returned 1.0"),
        ("None", "returned None"),
        ("1 / 0", "failed: Zero"),
        ("exit(3)", "failed: SystemExit"),
    ],
)
def test_a_wrong_answer_of_a_file_is_named(tmp_path: Path, answer: str, reason: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(f"def choose(request, replicas):\n    return {answer}\n")
    with pytest.raises(OptionError, match=reason):
        make_policy(str(path), 0)(REQUEST, [Seen(), Seen()])


def test_a_wrong_answer_about_a_single_replica_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("def choose(request, replicas):\n    return 1\n")
    with pytest.raises(OptionError, match="returned 1; it must be 0, the number of the only replica"):
        make_policy(str(path), 0)(REQUEST, [Seen()])
