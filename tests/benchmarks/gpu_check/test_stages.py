"""Stages of gpu_check on the CPU, in their smallest sizes: mistakes are found before a GPU is at hand."""

from pathlib import Path

import pytest
import torch

from benchmarks.gpu_check import throughput
from benchmarks.gpu_check.stages import STAGES, Context

_IN_EVERY_RUN = ("environment", "ceilings", "attention right", "models right", "throughput", "attention fast")
_NAMES = [
    pytest.param(stage.name, marks=() if stage.name in _IN_EVERY_RUN else pytest.mark.long)
    for stage in STAGES
    if not stage.needs_gpu
]


@pytest.mark.parametrize("name", _NAMES)
def test_a_stage_runs_dry(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "LOADS", throughput.LOADS[1:2])
    (stage,) = [stage for stage in STAGES if stage.name == name]
    context = Context(torch.device("cpu"), tmp_path, is_tiny=True)
    figures = list(stage.load()(context))

    assert figures
    missed = [each for each in figures if each.verdict == "FAIL" and each.unit not in ("ms", "s", "TFLOP/s")]
    assert missed == []
    assert all(each.value is not None or each.note for each in figures)
