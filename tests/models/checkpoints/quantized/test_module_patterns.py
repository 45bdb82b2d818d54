"""Patterns over modules' names: they match what Python's `re` matches, and always end soon."""

import random
import re
import time

import pytest

from models.checkpoints.quantized.module_patterns import ModulePattern
from models.errors import CheckpointError, UnsupportedModelError

pytestmark = pytest.mark.fast

NAMES = ["lm_head", "model.layers.0.self_attn.q_proj", "model.layers.17.mlp.experts.3.down_proj", "", "a", "aab"]
PATTERNS = [
    ".*",
    "lm_head$",
    r".*self_attn\.(q|k|v)_proj$",
    r"^model\.layers\.\d+\.mlp\..*",
    r"model\.layers\.(?:[0-9]|1[0-7])\.mlp.*",
    r"^(?!.*lm_head).*$",
    r".*(?<!self_)attn.*",
    r".*(?<=experts\.)\d",
    r"(?=.*mlp)model",
    r"(?P<a>a)+b",
    r"a{1,2}?b|a{3}",
    r"a{2,}",
    r"[^.]*",
    r"[\w.]+\.[]x-]?down",
    "(a|)*b",
    "((a*)*)*$",
    "",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_names_match_as_in_python(pattern: str) -> None:
    matcher = ModulePattern(pattern, "f")
    for name in NAMES:
        assert matcher.is_match(name) == bool(re.match(pattern, name)), name


def test_random_patterns_match_as_in_python() -> None:
    generator = random.Random(3)
    pieces = ["a", "b", ".", "[ab]", "(", ")", "|", "*", "+", "?", "{2}", "{1,3}", "(?:", "(?!", "^", "$", "[^a]"]
    num_read = 0
    for _ in range(3000):
        pattern = "".join(generator.choices(pieces, k=generator.randint(1, 8)))
        try:
            matcher = ModulePattern(pattern, "f")
        except (CheckpointError, UnsupportedModelError):
            continue
        num_read += 1
        for name in ("", "a", "ab", "aab", "bbab", "abcab"):
            assert matcher.is_match(name) == bool(re.match(pattern, name)), (pattern, name)
    assert num_read > 500


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+z", "(a|a)*z", "(?:a?){100}a{100}z", "(?:.*.*.*.*)*z", "(" * 19 + "a*" + ")*" * 19 + "z", "(a|b|ab)*z"],
)
def test_patterns_that_backtrack_for_ever_elsewhere_end_soon(pattern: str) -> None:
    matcher = ModulePattern(pattern, "f")
    began_s = time.process_time()
    assert not matcher.is_match("a" * 200)
    assert time.process_time() - began_s < 60.0


@pytest.mark.parametrize(
    ("pattern", "error", "reason"),
    [
        ("(", CheckpointError, "not a regular expression"),
        ("(" * 5000 + ")" * 5000, CheckpointError, "longer than 1000"),
        ("a{99999999999999999999}", CheckpointError, "not a regular expression"),
        ("a{5000}", UnsupportedModelError, "does not support"),
        (r"(a)\1", UnsupportedModelError, "does not support"),
        ("(?i:a)", UnsupportedModelError, "does not support"),
        ("a*+", UnsupportedModelError, "does not support"),
        ("(" * 21 + ")" * 21, UnsupportedModelError, "does not support"),
    ],
)
def test_what_is_not_read_is_refused(pattern: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=f"^f: target .*{reason}"):
        ModulePattern(pattern, "f")
