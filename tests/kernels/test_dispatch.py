"""The table of native kernels."""

from pathlib import Path

import pytest
import torch

from models.kernels.cpu import library
from models.kernels.dispatch import KERNELS, Kernel, describe_kernels, refusal

CPU = torch.device("cpu")


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_every_row_names_a_function_of_the_library(kernels: library.KernelLibrary, kernel: Kernel) -> None:
    assert callable(getattr(kernels, kernel.name))


def test_refusal_names_the_limit() -> None:
    assert refusal("bf16_linear", torch.bfloat16, CPU) is None
    assert refusal("bf16_linear", torch.float16, CPU) == "bf16_linear takes bfloat16 and float32, not float16"
    assert refusal("bf16_linear", torch.bfloat16, torch.device("cuda", 0)) == "bf16_linear runs on cpu, not on cuda:0"


def test_description_names_the_level_or_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert library.detect_level() in describe_kernels()
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    library._library_and_reason.cache_clear()
    try:
        assert "none (no C++ compiler found (tried no-such-compiler)" in describe_kernels()
        assert refusal("bf16_linear", torch.bfloat16, CPU) == library.unavailable_reason()
    finally:
        library._library_and_reason.cache_clear()
