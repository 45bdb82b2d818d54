"""The curve of finished jobs, from the files that they leave."""

from pathlib import Path

import pytest

from engine.command_io.finetuning.job import Scaling
from engine.errors import OptionError
from server.finetuning.scaling.finished import finished_curve
from tests.helpers.finished_jobs import finished_job

pytestmark = pytest.mark.fast


def test_jobs_that_differ_in_one_size_are_a_curve(tmp_path: Path) -> None:
    paths = [finished_job(tmp_path / str(rank), rank=rank, loss=1 / rank) for rank in (2, 4, 8)]
    curve = finished_curve(paths)
    assert (curve.kind, curve.per) == (Scaling.RANK, "token")
    assert curve.points == [(2, 0.5), (4, 0.25), (8, 0.125)]


def test_examples_are_counted_without_those_that_were_removed(tmp_path: Path) -> None:
    curve = finished_curve([finished_job(tmp_path / str(count), examples=count) for count in (40, 20)])
    assert curve.kind is Scaling.DATA
    assert [size for size, _ in curve.points] == [40, 20]


def test_losses_of_preferences_are_of_pairs(tmp_path: Path) -> None:
    paths = [finished_job(tmp_path / str(rank), rank=rank, beta=0.5) for rank in (2, 4)]
    assert finished_curve(paths).per == "pair"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({}, "differ in none of examples, rank and epochs"),
        ({"rank": 4, "examples": 50}, "differ in examples and rank; a curve needs jobs that differ in one"),
        ({"rank": 4, "before": 2.5}, "was 3.0000, and that of .*b 2.5000: they have other models or validation files"),
        ({"rank": 4, "loss": None}, "--jobs .*b: .* has no finished job with a held-out loss; train it to its end"),
    ],
)
def test_jobs_that_are_no_curve_are_refused(second: dict[str, float], message: str, tmp_path: Path) -> None:
    paths = [finished_job(tmp_path / "a"), finished_job(tmp_path / "b", **second)]  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=message):
        finished_curve(paths)


def test_a_folder_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    paths = [finished_job(tmp_path / str(rank), rank=rank) for rank in (2, 4)]
    with pytest.raises(OptionError, match=r"--jobs has .*2 twice, which would count its noise too low; give each once"):
        finished_curve([*paths, f"{paths[0]}/../2"])


def test_a_folder_without_a_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="has no finished job"):
        finished_curve([str(tmp_path)])
    with pytest.raises(OptionError, match="--jobs nope: there is no such folder"):
        finished_curve(["nope"])
