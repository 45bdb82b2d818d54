"""naming_faults: errors of torch on a CUDA device, by what the device answers afterwards."""

import pytest
import torch

from models.errors import DeviceLostError
from models.system import cuda
from models.system.cuda import naming_faults

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


def failing(message: str, device: torch.device) -> None:
    with naming_faults(device):
        raise RuntimeError(message)


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_a_shortage_is_a_memory_error(device: torch.device) -> None:
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        failing("CUDA out of memory. Tried to allocate 9 bytes", device)


@pytest.mark.parametrize(
    ("device", "answers", "kind"),
    [(CUDA, False, DeviceLostError), (CUDA, True, RuntimeError), (CPU, False, RuntimeError)],
)
def test_a_device_that_no_longer_answers_is_lost(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, answers: bool, kind: type[Exception]
) -> None:
    monkeypatch.setattr(cuda, "answers", lambda _: answers)
    with pytest.raises(kind, match="CUDA error: new in a later version") as caught:
        failing("CUDA error: new in a later version", device)
    assert type(caught.value) is kind


def test_an_error_of_python_code_does_not_ask_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "answers", lambda _: pytest.fail("the device is asked"))
    with pytest.raises(RuntimeError, match="shapes"):
        failing("shapes do not match", CUDA)


def test_the_real_queries_answer_on_any_machine() -> None:
    if cuda.cuda_build() is None:
        assert cuda.start_error() is not None
        assert cuda.device_count() == 0
    elif cuda.start_error() is None:
        assert cuda.device_properties(0).total_bytes >= cuda.memory_bytes(CUDA)[0]
