"""choose_device: what --device names, and start errors with the remedy for what cannot be used."""

import pytest
import torch

from engine.config import EngineConfig
from engine.errors import StartupError
from engine.startup.device import choose_device
from models.system import cuda
from tests.helpers.fake_cuda import H100, T4, install_devices

OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"
NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"


@pytest.mark.parametrize(("option", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("auto", 0)])
def test_a_device_is_chosen_and_made_current(monkeypatch: pytest.MonkeyPatch, option: str, index: int) -> None:
    current = install_devices(monkeypatch, [H100, H100])
    assert choose_device(option) == torch.device("cuda", index)
    assert current == [index]


def test_the_cpu_is_chosen_beside_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    current = install_devices(monkeypatch, [H100])
    assert choose_device("cpu") == torch.device("cpu")
    assert current == []


@pytest.mark.parametrize(
    ("devices", "error", "option", "message"),
    [
        ([], OLD_DRIVER, "cuda", r"found version 11040.*update the NVIDIA driver to one for CUDA 13.0"),
        ([], NO_DRIVER, "cuda", r"Found no NVIDIA driver.*nvidia-smi.*--gpus all"),
        ([], "CUDA unknown error", "cuda", r"CUDA unknown error.*check the driver with nvidia-smi"),
        ([H100], None, "cuda:2", r"cuda:2, but there is no such device: cuda:0 \(NVIDIA H100.*CUDA_VISIBLE_DEVICES"),
        ([H100, T4], None, "cuda:1", r"Tesla T4 has compute capability 7.5, and headrace needs 8.0.*another device"),
    ],
)
def test_a_device_that_cannot_be_used_is_a_start_error(
    monkeypatch: pytest.MonkeyPatch, devices: list[cuda.CudaDevice], error: str | None, option: str, message: str
) -> None:
    install_devices(monkeypatch, devices, error=error)
    with pytest.raises(StartupError, match=message + r".*or use --device cpu$"):
        choose_device(option)


def test_a_torch_without_cuda_is_a_start_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cuda_build", lambda: None)
    with pytest.raises(
        StartupError, match=r"--device is cuda:1, but this torch \(.*\) was built without CUDA; install"
    ):
        choose_device("cuda:1")
    assert choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("devices", "error", "warned"),
    [
        ([], NO_DRIVER, ""),
        ([], OLD_DRIVER, "found version 11040"),
        ([T4, H100], None, "compute capability 7.5"),
    ],
)
def test_auto_falls_back_to_the_cpu_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    devices: list[cuda.CudaDevice],
    error: str | None,
    warned: str,
) -> None:
    install_devices(monkeypatch, devices, error=error)
    assert choose_device("auto") == torch.device("cpu")
    assert [warned in record.message for record in caplog.records] == ([True] if warned else [])


@pytest.mark.parametrize("option", ["gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:1:2", "CPU0", ""])
def test_other_names_are_refused(option: str) -> None:
    with pytest.raises(StartupError, match=r"--device is .*; it must be auto, cpu, cuda or cuda:N"):
        EngineConfig(device=option)
