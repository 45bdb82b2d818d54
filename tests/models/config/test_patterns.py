"""Patterns over modules' names: patterns that could match for ever are refused."""

import random
import re
import time

import pytest

from models.config.patterns import module_pattern
from models.errors import CheckpointError

pytestmark = pytest.mark.fast

USUAL = [
    ".*",
    "lm_head$",
    r".*self_attn\.(q|k|v)_proj$",
    r"^model\.layers\.\d+\.mlp\..*",
    r"model\.layers\.(?:[0-9]|1[0-7])\.mlp.*",
    r"^(?!.*(?:lm_head|vision)).*$",
    r".*(?<!self_)attn.*",
    r".*layers\.\d+\.mlp\.experts\.\d+\.(gate|up|down)_proj.*",
    r"(?:language_model\.)?model\.layers\.[0-9]{1,2}\..*?proj",
    r"[\w.]+\.[]x-]?down",
    r"[*+]\*\+\(",
    "",
]


@pytest.mark.parametrize("pattern", USUAL)
def test_usual_patterns_are_compiled(pattern: str) -> None:
    assert module_pattern(pattern, "f") == re.compile(pattern)


def test_accepted_patterns_end_soon() -> None:
    generator = random.Random(3)
    pieces = ["a", ".", "(", ")", "|", "*", "+", "?", "{1,30}", "(?:", "(?!", "(a|[ab])", "[^z]"]
    num_read, start_s = 0, time.process_time()
    for _ in range(20000):
        pattern = "".join(generator.choices(pieces, k=generator.randint(1, 12))) + "z"
        try:
            compiled = module_pattern(pattern, "f")
        except CheckpointError:
            continue
        num_read += 1
        compiled.match("a" * 40)
    assert num_read > 500
    assert time.process_time() - start_s < 60.0


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "not a regular expression"),
        ("[", "not a regular expression"),
        ("a{99999999999999999999}", "not a regular expression"),
        ("(?i)a", "not a regular expression"),
        ("a" * 1001, "too complex"),
        ("(a+)+z", "too complex"),
        ("(a|a){9}z", "too complex"),
        ("(?:a?){100}a{100}z", "too complex"),
        ("(a|[ab])" * 20 + "z", "too complex"),
        (".*" * 6 + "z", "too complex"),
        ("a?" * 50 + "z", "too complex"),
    ],
)
def test_other_patterns_are_refused(pattern: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=f"^f has the pattern .*{reason}"):
        module_pattern(pattern, "f")
