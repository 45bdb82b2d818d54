"""Stages of long work: bars that fit the terminal, lines elsewhere."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from engine.command_io.stage_bars import StageBars
from engine.command_io.stage_lines import StageLines
from engine.command_io.stage_text import cut_middle, described, share, speed

pytestmark = pytest.mark.fast

STAGES = [
    ("look up owner/a-model-with-a-rather-long-name-GGUF", 0, 0, "B"),
    ("download owner/a-model-with-a-rather-long-name-GGUF", 1_000_000, 2_000_000, "B"),
    ("download owner/a-model-with-a-rather-long-name-GGUF", 2_000_000, 2_000_000, "B"),
    ("load weights", 3, 272, "tensors"),
    ("load weights", 272, 272, "tensors"),
    ("warm up", 0, 0, "steps"),
]


def drawn(width: int, stages: list[tuple[str, int, int, str]] = STAGES) -> list[str]:
    """The lines that stay on a terminal of that width."""
    screen = io.StringIO()
    bars = StageBars(Console(file=screen, force_terminal=True, width=width, color_system=None))
    for stage in stages:
        bars(*stage)
    bars.close()
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", screen.getvalue()).rstrip())
    return lines[-len({name for name, *_ in stages}) :]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_bars_fit_the_terminal_and_end_complete(width: int) -> None:
    lines = drawn(width)
    assert [line[:8] for line in lines] == ["✓ look u", "✓ downlo", "✓ load w", "✓ warm u"]
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_a_long_name_keeps_its_end(width: int) -> None:
    (line,) = drawn(width, [("download /a/folder/with/a/long/path/to/some/model-Q4_K_M.gguf", 1, 2, "B")])
    assert "do" in line[:6]
    assert "…" in line
    assert "Q4_K_M.gguf" in line


@given(st.text(), st.integers(2, 60))
def test_a_cut_name_fits_and_has_both_ends(text: str, width: int) -> None:
    cut = cut_middle(text, width)
    assert cell_len(cut) <= width
    if cut != text:
        first, _, last = cut.partition("…")
        assert text.startswith(first)
        assert text.endswith(last)


def test_a_wide_terminal_has_amounts_and_a_narrow_one_shares() -> None:
    assert "2.0 MB" in drawn(100)[1]
    assert "272 tensors" in drawn(100)[2]
    assert "100%" in drawn(40)[2]
    assert "tensors" not in drawn(40)[2]


def test_a_stage_that_is_cut_off_is_not_complete() -> None:
    (line,) = drawn(100, [("download x", 1_000_000, 2_000_000, "B")])
    assert "✓" not in line
    assert "1.0 MB of 2.0 MB" in line


def test_what_a_download_has_already_is_no_speed() -> None:
    screen = io.StringIO()
    bars = StageBars(Console(file=screen, force_terminal=True, width=100, color_system=None))
    bars("download x", 900_000_000, 1_000_000_000, "B")
    bars.close()
    assert "/s" not in screen.getvalue()


def test_lines_tell_begin_end_and_every_five_seconds() -> None:
    told, now_s = list[str](), 0.0
    lines = StageLines(told.append, lambda: now_s)
    for now_s, done in [(0.0, 0), (4.0, 40), (6.0, 60), (9.0, 90), (12.0, 99), (12.5, 100)]:  # noqa: B007 (the clock's)
        lines("download x", done * 1_000_000, 100_000_000, "B")
    lines("warm up", 0, 0, "steps")
    assert told == [
        "download x ...",
        "download x: 60.0 MB of 100.0 MB (60%)",
        "download x: 99.0 MB of 100.0 MB (99%)",
        "download x: 100.0 MB in 12.5 s",
        "warm up ...",
    ]


@pytest.mark.parametrize(
    ("report", "words", "part"),
    [
        ((0, 0, "B"), "", ""),
        ((5_000_000, 0, "B"), "5.0 MB", "5.0 MB"),
        ((1, 3, "files"), "1 of 3 files", "33%"),
        ((2_999, 3_000, "files"), "2,999 of 3,000 files", "99%"),
        ((3, 3, "files"), "3 files", "100%"),
        ((1, 1, "files"), "1 file", "100%"),
    ],
)
def test_words(report: tuple[int, int, str], words: str, part: str) -> None:
    assert (described(*report), share(*report)) == (words, part)


@pytest.mark.parametrize(
    ("left_s", "words"), [(None, "4.1 MB/s"), (25.4, "4.1 MB/s, 25 s left"), (5000.0, "4.1 MB/s, 1 h 23 min left")]
)
def test_speeds(left_s: float | None, words: str) -> None:
    assert speed(4_100_000.0, left_s) == words
