"""free_memory_bytes: the machine's memory, and a container's limit."""

import errno
import mmap
from pathlib import Path

import pytest
import torch

from models import free_memory
from models.errors import ModelError
from models.free_memory import free_memory_bytes, obtainable_memory_bytes
from models.kernels.cpu.library import kernel_library
from models.quant.select import WeightOptions
from models.quant.tensor import Encoding
from tests.helpers.checkpoints import llama_config, load_folder, random_model

CPU = torch.device("cpu")
MEMINFO = "MemTotal: 900 kB\nMemAvailable:     500 kB\nSwapFree: 70 kB\nHugePages_Total: 0\n"


def write(folder: Path, **files: str) -> dict[str, Path]:
    """meminfo, and files of a control group by their names without `memory.`; returns arguments of the functions."""
    (folder / "meminfo").write_text(files.pop("meminfo", MEMINFO))
    for name, content in files.items():
        path = folder / "cgroup" / name.replace("__", "/memory.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return {"meminfo": folder / "meminfo", "cgroups": folder / "cgroup"}


V2 = {"memory.max": "300000\n", "memory.current": "200000\n"}
STATISTICS = "anon 5\ninactive_file 1000\nactive_file 200\n"


@pytest.mark.parametrize(
    ("files", "swap"),
    [
        ({}, 70 * 1024),
        (V2, 70 * 1024),
        ({**V2, "memory.swap.max": "max\n", "memory.swap.current": "5\n"}, 70 * 1024),
        ({**V2, "memory.swap.max": "0\n", "memory.swap.current": "0\n"}, 0),
        ({**V2, "memory.swap.max": "9000\n", "memory.swap.current": "8000\n"}, 1000),
        (
            {
                "memory__limit_in_bytes": "300\n",
                "memory__usage_in_bytes": "200\n",
                "memory__memsw.limit_in_bytes": "450\n",
                "memory__memsw.usage_in_bytes": "240\n",
            },
            110,
        ),
    ],
)
def test_swap_counts_as_far_as_the_container_may_use_it(tmp_path: Path, files: dict[str, str], swap: int) -> None:
    places = write(tmp_path, **files)
    assert obtainable_memory_bytes(CPU, **places) - free_memory_bytes(CPU, **places) == swap


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 500 * 1024),
        ({**V2, "memory.max": "max\n"}, 500 * 1024),
        (V2, 100_000),
        ({**V2, "memory.stat": STATISTICS}, 101_200),
        ({**V2, "memory.current": "400000\n"}, 0),
        ({**V2, "memory.max": "9000000\n"}, 500 * 1024),
        ({"memory__limit_in_bytes": "300\n", "memory__usage_in_bytes": "200\n"}, 100),
        (
            {
                "memory__limit_in_bytes": "300\n",
                "memory__usage_in_bytes": "200\n",
                "memory__stat": "inactive_file 9\ntotal_inactive_file 50\n",
            },
            150,
        ),
    ],
)
def test_free_memory_is_bounded_by_the_container_but_not_by_cached_files(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    assert free_memory_bytes(CPU, **write(tmp_path, **files)) == expected


def test_swap_can_be_had_too(tmp_path: Path) -> None:
    assert obtainable_memory_bytes(CPU, **write(tmp_path)) == 570 * 1024


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("encoding", [None, Encoding.INT4, Encoding.FP8_E4M3])
def test_weights_that_cannot_fit_are_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, encoding: Encoding | None
) -> None:
    random_model(llama_config(hidden_size=128, intermediate_size=256)).save_pretrained(tmp_path)
    weights = WeightOptions(quantise_to=encoding)
    held = load_folder(tmp_path, dtype, weights=weights).weight_bytes()

    monkeypatch.setattr(free_memory, "obtainable_memory_bytes", lambda _: int(0.85 * held))
    with pytest.raises(ModelError, match=r"need 0.00 GiB and cpu has 0.00 GiB free.*--quantization int4"):
        load_folder(tmp_path, dtype, weights=weights)

    monkeypatch.setattr(free_memory, "obtainable_memory_bytes", lambda _: held)
    load_folder(tmp_path, dtype, weights=weights)


@pytest.mark.skipif(kernel_library() is None, reason="there is no C++ compiler for the native kernels")
def test_memory_that_the_system_refuses_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_model(llama_config()).save_pretrained(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(ModelError, match=r"bytes of memory were refused: Cannot .*ulimit -v"):
        load_folder(tmp_path, torch.bfloat16)
