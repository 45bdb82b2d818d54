"""gpu_check: a stage that crashes or hangs costs that stage alone, and its figures until then are kept."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_check.__main__ import chosen_stages, run_stages
from benchmarks.gpu_check.figures import Figure, StageResult, load_figures, save_figures, table
from benchmarks.gpu_check.stages import STAGES, Stage

# Behaves as the stage's name says, after a figure.
CHILD = """
import json, os, sys, time
name, path = sys.argv[2], sys.argv[4]
open(path, "w").write(json.dumps([dict(name=name, value=1.0)]))
if name == "crashes":
    os.abort()
if name == "hangs":
    time.sleep(600)
"""


def stage(name: str, limit_s: float = 30.0) -> Stage:
    return Stage(name, "figures:table", limit_s)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "child.py").write_text(CHILD)
    return [sys.executable, "-S", str(tmp_path / "child.py")]


def test_each_stage_ends_for_itself_and_its_figures_are_kept(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    results = run_stages([stage("crashes"), stage("hangs", 0.5), stage("works")], out, 500.0, command)

    assert [each.ending for each in results] == ["ended with -6; see crashes.log", "killed after 0 s", ""]
    assert [each.figures for each in results] == [[Figure(each.name, 1.0)] for each in results]
    saved = json.loads((out / "results.json").read_text())
    assert [each["name"] for each in saved] == ["crashes", "hangs", "works"]


def test_stages_beyond_the_budget_are_named(command: list[str], tmp_path: Path) -> None:
    (result,) = run_stages([stage("works")], tmp_path, 1.0, command)
    assert (result.ending, result.figures) == ("not run: the budget is spent", [])


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (Figure("a", 3.0), ""),
        (Figure("a", 3.0, limit=3.0), "pass"),
        (Figure("a", 2.9, limit=3.0), "FAIL"),
        (Figure("a", 2.9, limit=3.0, more_is_better=False), "pass"),
        (Figure("a", 3.1, limit=3.0, more_is_better=False), "FAIL"),
        (Figure("a", float("nan"), limit=3.0), "FAIL"),
        (Figure("a", None, limit=3.0, note="refused"), "FAIL"),
    ],
)
def test_verdicts(figure: Figure, verdict: str) -> None:
    assert figure.verdict == verdict


def test_the_table_has_limits_published_figures_and_stages_that_were_cut_short(tmp_path: Path) -> None:
    figures = [
        Figure("step of 1", 6.1234, "ms", 6.4, more_is_better=False, published=6.86),
        Figure("rate", 12_345.6, "tokens/s", 13_600.0),
        Figure("deterministic", None, note="refused"),
    ]
    save_figures(tmp_path / "figures.json", figures)
    lines = table(
        [StageResult("fast", 1.0, "killed after 240 s", load_figures(tmp_path / "figures.json"))]
    ).splitlines()

    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells == [
        ["fast", "step of 1", "6.123 ms", "<= 6.400 ms", "6.860 ms", "pass"],
        ["fast", "rate", "12,346 tokens/s", ">= 13,600 tokens/s", "", "FAIL"],
        ["fast", "deterministic", "refused", "", "", ""],
        ["fast", "killed after 240 s", "", "", "", "FAIL"],
    ]


def test_stages_are_chosen_by_name_and_device() -> None:
    assert chosen_stages(None, is_tiny=False) == [*STAGES]
    assert [each.name for each in chosen_stages(["http", "environment"], is_tiny=False)] == ["environment", "http"]
    assert all(not each.needs_gpu for each in chosen_stages(None, is_tiny=True))
    assert all(callable(each.load()) for each in STAGES)
