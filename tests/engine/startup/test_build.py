"""build_engine: its refusals, and what a start leaves to the next one."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import Device, EngineConfig
from engine.errors import ModelUnusable, OptionError, StartupError
from engine.startup import build, early, load
from engine.startup.build import build_engine
from models.errors import CheckpointError, ModelError, SettingError, SourceError, UnsupportedModelError
from models.kernels.cpu.library import kernel_library
from models.weight_cache.cache import WeightCache
from tests.helpers.loaded import load_random
from tests.helpers.model_folders import write_model_folder

SHORTAGES = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


def _build(threads: int | None = None) -> None:
    build_engine(EngineConfig(device=Device.CPU, threads=threads), lambda *_: None)


@pytest.mark.parametrize("shortage", SHORTAGES, ids=lambda error: type(error).__name__)
def test_a_memory_shortage_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch, shortage: Exception) -> None:
    def refuse(*_: object) -> None:
        raise shortage

    monkeypatch.setattr(build, "load_models", refuse)
    with pytest.raises(StartupError, match=r"memory ran out.*--kv-cache-memory-bytes.*ulimit -v"):
        _build(threads=1)


def test_slots_that_a_device_lacks_memory_for_are_named_with_a_remedy(tmp_path: Path) -> None:
    model = load_random(write_model_folder(tmp_path / "model"))

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.decoder.enable_adapters = refuse  # type: ignore[method-assign]
    with pytest.raises(StartupError, match=r"8 adapter slots of rank 64 need .* on cpu.*lower --max-lora-rank"):
        build._enable_adapters(EngineConfig(enable_lora=True), model)


def test_a_setting_that_the_models_refuse_is_a_wrong_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise SettingError("HEADRACE_CPU_LEVEL is 'sse9'")

    monkeypatch.setattr(load, "resolve_draft", lambda *_: None)
    monkeypatch.setattr(load, "resolve_model", refuse)
    with pytest.raises(OptionError, match="sse9"):
        _build(threads=1)


@pytest.mark.parametrize("fault", [CheckpointError, UnsupportedModelError, SourceError, ModelError])
def test_files_that_will_never_load_are_told_apart(monkeypatch: pytest.MonkeyPatch, fault: type[ModelError]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise fault("of the model")

    monkeypatch.setattr(load, "resolve_draft", lambda *_: None)
    monkeypatch.setattr(load, "resolve_model", refuse)
    with pytest.raises(StartupError, match="of the model") as error:
        _build(threads=1)
    assert isinstance(error.value, ModelUnusable) == (fault in (CheckpointError, UnsupportedModelError))


def test_other_faults_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(build, "load_models", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        _build(threads=1)


def test_more_threads_than_the_process_may_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "allowed_cpus", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(early, "usable_cores", lambda: 2)
    with pytest.raises(OptionError, match=r"--threads is 100,000; this process can run 4 at once.*lower it.* for 2"):
        _build(threads=100_000)
    assert [early.compute_threads(requested) for requested in (None, 1, 4)] == [2, 1, 4]


@pytest.mark.skipif(kernel_library() is None, reason="there is no C++ compiler for the native kernels")
def test_mapped_weights_are_no_free_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The system counts a file's pages as free, since it could read them again."""
    model = str(write_model_folder(tmp_path / "model"))
    cache = functools.partial(WeightCache, tmp_path / "cache", min_bytes=0, requires_huge_pages=False)
    free: list[int] = []
    plan = build.plan_kv_budget

    def noted(*args: Any, **kwargs: Any) -> Any:
        free.append(kwargs["free_bytes"])
        return plan(*args, **kwargs)

    monkeypatch.setattr(load, "WeightCache", cache)
    monkeypatch.setattr(build, "plan_kv_budget", noted)
    monkeypatch.setattr(build, "free_memory_bytes", lambda _: 1 << 30)
    for weight_cache in (False, True, True):
        build_engine(EngineConfig(model, device=Device.CPU, threads=1, weight_cache=weight_cache), lambda *_: None)
    [file] = (tmp_path / "cache").iterdir()
    assert free[:2] == [1 << 30, 1 << 30]
    assert 0 <= file.stat().st_size - (free[1] - free[2]) < 1 << 16  # all but the file's index


def test_adapters_are_planned_beside_the_kv_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = str(write_model_folder(tmp_path / "model"))
    reserved: list[int] = []
    plan = build.plan_kv_budget

    def noted(*args: Any, **kwargs: Any) -> Any:
        reserved.append(kwargs["reserved_bytes"])
        return plan(*args, **kwargs)

    monkeypatch.setattr(build, "plan_kv_budget", noted)
    monkeypatch.setattr(build, "free_memory_bytes", lambda _: 1 << 30)
    infos = []
    for options in ({}, {"enable_lora": True, "max_lora_rank": 8, "max_loras": 2}):
        config = EngineConfig(model, device=Device.CPU, threads=1, weight_cache=False, **options)  # type: ignore[arg-type]
        infos.append(build_engine(config, lambda *_: None)[1])
    plain, adapted = infos
    assert plain.adapter_bytes == 0
    assert adapted.adapter_bytes > 0
    assert reserved == [0, adapted.adapter_bytes]
    assert (plain.trainable_layers, "q_proj" in adapted.trainable_layers) == ([], True)
    assert any(note.startswith("Adapters: 2 slots of ") and "at rank 8; up to " in note for note in adapted.notes)
