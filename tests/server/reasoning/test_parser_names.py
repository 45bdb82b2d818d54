"""--reasoning-parser: its names."""

import pytest

from engine.errors import OptionError
from server.reasoning.marks import HARMONY, THINK, marks_of_parser

pytestmark = pytest.mark.fast


def test_name_stands_for_marks() -> None:
    assert marks_of_parser("deepseek_r1") == THINK
    assert marks_of_parser("openai_gptoss") == HARMONY


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"'r2' is not known.*deepseek_r1.*qwen3"):
        marks_of_parser("r2")
