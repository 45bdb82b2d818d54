"""Checks of the machine: torch, kernels, cores, huge pages, the cache folder, devices."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from engine.command_io.findings import Finding, ok, problem, warning
from engine.config import Device, EngineConfig
from engine.errors import OptionError, StartupError
from engine.runner.kv_budget import format_bytes
from engine.startup.device import device_refusal, planned_device
from engine.startup.early import check_events_library, compute_threads, offload_folder
from engine.startup.events import describe_publisher, open_publisher
from engine.wording import counted
from models.errors import SettingError
from models.kernels.cpu import build
from models.kernels.cpu.library import LEVEL_VARIABLE, chosen_level
from models.system import cuda
from models.system.cache_folder import cache_folder
from models.system.cores import allowed_cpus, cpu_quota

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_NVIDIA = Path("/proc/driver/nvidia/version")
_LITTLE_DISK_BYTES = 4 << 30
_COMPILE = "compiles them at the first start: 25 seconds of a core"


def machine_findings(config: EngineConfig) -> Iterator[Finding]:
    yield ok("torch", f"{torch.__version__}")
    yield device_finding(config.device)
    yield kernel_finding()
    yield from core_findings(config.threads)
    yield huge_page_finding(_HUGE_PAGES)
    yield cache_finding(cache_folder())
    if config.kv_offload_dir is not None:
        yield offload_finding(config.kv_offload_dir)


def device_finding(option: str) -> Finding:
    """Check the device that --device names, in the words of a start."""
    refusal, device = device_refusal(option), planned_device(option)
    if refusal is not None and option != Device.AUTO:
        return problem("device", f"--device is {option}, but {refusal}, or use --device cpu")
    if refusal is not None:
        return warning("device", f"the CPU computes: {refusal}")
    if device.index is not None:
        found = cuda.device_properties(device.index)
        more = f" of {counted(cuda.device_count(), 'device')}" if cuda.device_count() > 1 else ""
        return ok("device", f"{device}{more}: {found.name}, {format_bytes(found.total_bytes)}")
    if planned_device(Device.AUTO).index is not None:
        return warning(
            "device", f"{cuda.device_properties(0).name} is not used: --device is cpu; leave it out to use it"
        )
    if _NVIDIA.exists():
        return warning(
            "device", f"there is an NVIDIA driver, but torch {torch.__version__} cannot use it: a CPU build?"
        )
    return ok("device", "CPU")


def kernel_finding() -> Finding:
    """Check the CPU kernels and their instruction-set level. Compiles the small library that detects the level."""
    try:
        level = chosen_level()
        recipe = build.level_recipe(level)
        if build.prebuilt_library(recipe) is not None:
            source = "shipped with the package"
        elif build.is_compiled(recipe, build.kernel_folder()):
            source = f"compiled, in {build.kernel_folder()}"
        else:
            source = f"not compiled yet; {build.find_compiler()} {_COMPILE}"
    except (build.KernelBuildError, SettingError) as error:
        reason = str(error).splitlines()[0]
        return problem("kernels", f"none, so steps take several times as long: {reason}")
    if given := os.environ.get(LEVEL_VARIABLE):
        return warning("kernels", f"{level}, {source}; {LEVEL_VARIABLE} is {given}; without it, the best is chosen")
    if level == "portable" and len(build.LEVELS) > 1:
        is_x86 = "avx2" in build.LEVELS
        lacks = "AVX2, so products take several times as long" if is_x86 else "dot products of bytes"
        return warning("kernels", f"{level}, {source}; the processor has no {lacks}")
    return ok("kernels", f"{level}, {source}")


def core_findings(requested: int | None) -> Iterator[Finding]:
    """Report the number of compute threads, and the limits that reduce it."""
    num_cpus, allowed, quota = os.cpu_count() or 1, len(allowed_cpus()), cpu_quota()
    try:
        threads = compute_threads(requested)
    except OptionError as error:
        yield problem("threads", str(error))
        return
    limits = []
    if allowed < num_cpus:
        limits.append(f"affinity or a cpuset allows {allowed:,}")
    if quota is not None and quota < num_cpus:
        limits.append(f"a control group allows {quota:g}")
    text = f"{threads:,} compute; the machine has {counted(num_cpus, 'CPU')}"
    if requested is not None:
        limits.append("--threads says so")
    yield ok("threads", "; ".join([text, *limits]))
    if quota is not None and quota < 1:
        yield warning("CPU quota", f"{quota:g} of a CPU: computing stops for the rest of each period; allow one")


def huge_page_finding(enabled: Path) -> Finding:
    try:
        state = enabled.read_text()
    except OSError:
        return warning("huge pages", "the system has none: weights are read more slowly")
    if "[never]" in state:
        return warning(
            "huge pages",
            f"switched off: weights are read more slowly, and are not cached for quick starts; as root: "
            f"echo madvise > {enabled}",
        )
    return ok("huge pages", state.partition("[")[2].partition("]")[0])


def cache_finding(folder: Path) -> Finding:
    """Check whether the cache folder, or the nearest existing one above it, can be written to, and its free space."""
    nearest = next(each for each in (folder, *folder.parents) if os.path.exists(each))
    free = format_bytes(shutil.disk_usage(nearest).free)
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        return warning(
            "cache folder",
            f"{folder} cannot be written ({error.strerror}): each start downloads, packs and compiles again; "
            "set HEADRACE_CACHE to a writable folder",
        )
    if shutil.disk_usage(nearest).free < _LITTLE_DISK_BYTES:
        return warning("cache folder", f"{folder} has {free} left, which packed weights may need; free some space")
    return ok("cache folder", f"{folder}, {free} free")


def offload_finding(folder: str) -> Finding:
    """Check the folder for blocks of the KV cache (--kv-offload-dir), and make it if it is missing."""
    try:
        path = offload_folder(folder)
    except OptionError as error:
        return problem("blocks on disk", str(error))
    return ok("blocks on disk", f"{path}, {format_bytes(shutil.disk_usage(path).free)} free")


def event_findings(models: Sequence[EngineConfig]) -> Iterator[Finding]:
    """Bind the addresses of --kv-events as a start does, those of all models at once, since two models may have one."""
    with contextlib.ExitStack() as bound:
        for config in models:
            try:
                check_events_library(config)
                publisher = open_publisher(config)
            except (StartupError, OptionError) as error:
                yield problem("KV events", str(error))
                continue
            if publisher is not None:
                bound.callback(publisher.close)
                yield from (ok("KV events", line.removeprefix("KV events: ")) for line in describe_publisher(config))
