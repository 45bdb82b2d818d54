"""free_memory_bytes: the machine's memory, and a container's limit."""

import errno
import mmap
import resource
from pathlib import Path

import pytest
import torch

from models.errors import ModelError
from models.kernels.cpu.library import kernel_library
from models.linear.storage import WeightOptions
from models.quant.tensor import Encoding
from models.system import memory
from models.system.memory import SystemFiles, free_memory_bytes, obtainable_memory_bytes
from tests.helpers.checkpoints import llama_config, load_folder, random_model

CPU = torch.device("cpu")
MEMINFO = "MemTotal: 900 kB\nMemAvailable:     500 kB\nSwapFree: 70 kB\nHugePages_Total: 0\n"


def write(folder: Path, files: dict[str, str], own: str = "0::/\n") -> SystemFiles:
    """Write a system's files, control groups by their paths below the mount; `own` names the process's groups."""
    (folder / "meminfo").write_text(MEMINFO)
    (folder / "own").write_text(own)
    (folder / "status").write_text("Name:\tpython\nVmSize:\t  300 kB\n")
    for name, content in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return SystemFiles(folder / "meminfo", folder / "status", folder / "cgroup", folder / "own")


V2 = {"memory.max": "300000\n", "memory.current": "200000\n"}
STATISTICS = "anon 5\ninactive_file 1000\nactive_file 200\n"
V1_OWN = "5:cpu:/\n4:memory:/\n"
V1 = {"memory/memory.limit_in_bytes": "300\n", "memory/memory.usage_in_bytes": "200\n"}
V1_NO_LIMIT = f"{(1 << 63) - 4096}\n"


@pytest.mark.parametrize(
    ("files", "swap"),
    [
        ({}, 70 * 1024),
        (V2, 70 * 1024),
        ({**V2, "memory.swap.max": "max\n", "memory.swap.current": "5\n"}, 70 * 1024),
        ({**V2, "memory.swap.max": "0\n", "memory.swap.current": "0\n"}, 0),
        ({**V2, "memory.swap.max": "9000\n", "memory.swap.current": "8000\n"}, 1000),
    ],
)
def test_swap_counts_as_far_as_the_container_may_use_it(tmp_path: Path, files: dict[str, str], swap: int) -> None:
    system = write(tmp_path, files)
    assert obtainable_memory_bytes(CPU, files=system) - free_memory_bytes(CPU, files=system) == swap


@pytest.mark.parametrize(
    ("limit", "both", "swap"), [("300\n", "450\n", 110), (V1_NO_LIMIT, V1_NO_LIMIT, 70 * 1024), ("300\n", "300\n", 0)]
)
def test_swap_of_version_1_is_what_both_together_leave(tmp_path: Path, limit: str, both: str, swap: int) -> None:
    files = {
        **V1,
        "memory/memory.limit_in_bytes": limit,
        "memory/memory.memsw.limit_in_bytes": both,
        "memory/memory.memsw.usage_in_bytes": "240\n",
    }
    system = write(tmp_path, files, V1_OWN)
    assert obtainable_memory_bytes(CPU, files=system) - free_memory_bytes(CPU, files=system) == swap


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({}, "0::/\n", 500 * 1024),
        ({**V2, "memory.max": "max\n"}, "0::/\n", 500 * 1024),
        (V2, "0::/\n", 100_000),
        ({**V2, "memory.stat": STATISTICS}, "0::/\n", 101_200),
        ({**V2, "memory.current": "400000\n", "memory.stat": STATISTICS}, "0::/\n", 0),
        ({**V2, "memory.max": "9000000\n"}, "0::/\n", 500 * 1024),
        (V1, V1_OWN, 100),
        ({**V1, "memory/memory.stat": "inactive_file 9\ntotal_inactive_file 50\n"}, V1_OWN, 150),
    ],
)
def test_free_memory_is_bounded_by_the_container_but_not_by_cached_files(
    tmp_path: Path, files: dict[str, str], own: str, expected: int
) -> None:
    assert free_memory_bytes(CPU, files=write(tmp_path, files, own)) == expected


@pytest.mark.parametrize("below", ["", "memory/"])
def test_the_limits_of_a_service_and_of_the_groups_above_it_bound_free_memory(tmp_path: Path, below: str) -> None:
    """With MemoryMax of systemd, the process is in a group that is not the mount's root."""
    v2 = below == ""
    limit, usage = ("memory.max", "memory.current") if v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    slice_, service = f"{below}system.slice", f"{below}system.slice/headrace.service"
    own = "0::/system.slice/headrace.service\n" if v2 else "4:memory:/system.slice/headrace.service\n"
    files = {f"{service}/{limit}": "300000\n", f"{service}/{usage}": "200000\n"}
    assert free_memory_bytes(CPU, files=write(tmp_path, files, own)) == 100_000
    files |= {f"{slice_}/{limit}": "400000\n", f"{slice_}/{usage}": "390000\n"}
    assert free_memory_bytes(CPU, files=write(tmp_path, files, own)) == 10_000


def test_a_limit_of_the_address_space_bounds_memory_and_swap_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (400 * 1024, resource.RLIM_INFINITY))
    system = write(tmp_path, {})
    assert free_memory_bytes(CPU, files=system) == obtainable_memory_bytes(CPU, files=system) == 100 * 1024


def test_swap_can_be_had_too(tmp_path: Path) -> None:
    assert obtainable_memory_bytes(CPU, files=write(tmp_path, {})) == 570 * 1024


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("encoding", [None, Encoding.INT4, Encoding.FP8_E4M3])
def test_weights_that_cannot_fit_are_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, encoding: Encoding | None
) -> None:
    random_model(llama_config(hidden_size=128, intermediate_size=256)).save_pretrained(tmp_path)
    weights = WeightOptions(quantize_to=encoding)
    weight_bytes = load_folder(tmp_path, dtype, weights=weights).weight_bytes()

    monkeypatch.setattr(memory, "obtainable_memory_bytes", lambda _: int(0.85 * weight_bytes))
    with pytest.raises(ModelError, match=r"need 0.00 GiB and cpu has 0.00 GiB free.*--quantization int4"):
        load_folder(tmp_path, dtype, weights=weights)

    monkeypatch.setattr(memory, "obtainable_memory_bytes", lambda _: weight_bytes)
    load_folder(tmp_path, dtype, weights=weights)


@pytest.mark.skipif(kernel_library() is None, reason="there is no C++ compiler for the native kernels")
def test_memory_that_the_system_refuses_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_model(llama_config()).save_pretrained(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(ModelError, match=r"bytes of memory were refused: Cannot .*ulimit -v"):
        load_folder(tmp_path, torch.bfloat16)
