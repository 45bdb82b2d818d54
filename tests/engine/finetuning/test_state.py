"""What is saved of a training that goes on later."""

import tracemalloc
from pathlib import Path

import torch

from engine.finetuning.state import TrainingState


def test_a_state_is_saved_without_a_copy_of_it(tmp_path: Path) -> None:
    values = torch.randn(1 << 20)
    state = TrainingState(values, torch.randn(1 << 20), 0.0, "digest")
    state.update(0.1, 1.0)
    state.keep_best()
    tracemalloc.start()
    try:
        state.save(tmp_path / "state")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (tmp_path / "state").stat().st_size > 4 * values.nbytes
    assert peak < values.nbytes / 4
