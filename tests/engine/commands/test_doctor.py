"""The part of `headrace doctor` that looks at what computes."""

import importlib.util
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from engine.command_io.findings import Finding, ModelToCheck, Severity, warning
from engine.commands.doctor import machine, model
from engine.commands.doctor.model import find_model_problems
from engine.config import Device, EngineConfig, Task
from engine.runner.kv_budget import format_bytes
from models.kernels.cpu import build, library
from models.kernels.cpu.library import LEVEL_VARIABLE
from models.system.cuda import CudaDevice
from tests.helpers.fake_cuda import H100, T4, install_devices
from tests.helpers.model_folders import write_model_folder


def test_this_machine_has_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LEVEL_VARIABLE, raising=False)
    found = {each.subject: each for each in machine.machine_findings(EngineConfig(device=Device.AUTO))}
    assert found.keys() >= {"torch", "device", "kernels", "threads", "huge pages", "cache folder"}
    assert [each for each in found.values() if each.severity is Severity.PROBLEM] == []


@pytest.mark.parametrize(
    ("option", "devices", "severity", "message"),
    [
        ("cuda:1", [H100], Severity.PROBLEM, "--device is cuda:1, but there is no such device: cuda:0 (NVIDIA H100"),
        ("auto", [T4], Severity.WARNING, "the CPU computes: Tesla T4 has compute capability 7.5"),
        ("cuda:1", [T4, H100], Severity.OK, "cuda:1 of 2 devices: NVIDIA H100 80GB HBM3, 80.0 GiB"),
        ("cpu", [H100], Severity.WARNING, "NVIDIA H100 80GB HBM3 is not used: --device is cpu"),
    ],
)
def test_the_device_is_checked_as_at_a_start(
    monkeypatch: pytest.MonkeyPatch, option: str, devices: list[CudaDevice], severity: Severity, message: str
) -> None:
    install_devices(monkeypatch, devices)
    found = machine.device_finding(option)
    assert found.severity is severity
    assert found.message.startswith(message)


def test_without_kernels_and_compiler_steps_are_slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delenv(LEVEL_VARIABLE, raising=False)
    found = machine.kernel_finding()
    assert found.severity is Severity.PROBLEM
    assert "several times as long: no C++ compiler found" in found.message


def test_a_lower_level_than_the_processors_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEVEL_VARIABLE, "portable")
    found = machine.kernel_finding()
    assert found.severity is Severity.WARNING
    assert "HEADRACE_CPU_LEVEL is portable" in found.message


@pytest.mark.parametrize(
    ("levels", "lacks"), [(build._X86_LEVELS, "no AVX2"), (build._ARM64_LEVELS, "no dot products of bytes")]
)
def test_a_processor_without_vectors_is_told(
    monkeypatch: pytest.MonkeyPatch, levels: dict[str, tuple[str, ...]], lacks: str
) -> None:
    monkeypatch.delenv(LEVEL_VARIABLE, raising=False)
    monkeypatch.setattr(build, "LEVELS", levels)
    monkeypatch.setattr(library, "detect_level", lambda: "portable")
    assert lacks in machine.kernel_finding().message


def test_cores_say_what_limits_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(machine, "allowed_cpus", lambda: set(range(16)))
    monkeypatch.setattr(machine, "compute_threads", lambda _: 4)
    monkeypatch.setattr(machine, "cpu_quota", lambda: 4.0)
    (found,) = machine.core_findings(None)
    assert found.message == (
        "4 compute; the machine has 64 CPUs; affinity or a cpuset allows 16; a control group allows 4"
    )
    monkeypatch.setattr(machine, "cpu_quota", lambda: 0.5)
    assert [each.severity for each in machine.core_findings(None)] == [Severity.OK, Severity.WARNING]


def test_more_threads_than_may_run_are_a_problem() -> None:
    (found,) = machine.core_findings(100_000)
    assert found.severity is Severity.PROBLEM


def test_huge_pages_that_are_off_are_told(tmp_path: Path) -> None:
    enabled = tmp_path / "enabled"
    assert machine.huge_page_finding(enabled).severity is Severity.WARNING
    enabled.write_text("always madvise [never]\n")
    assert "switched off" in machine.huge_page_finding(enabled).message
    enabled.write_text("always [madvise] never\n")
    assert machine.huge_page_finding(enabled) == Finding("huge pages", Severity.OK, "madvise")


def test_the_cache_folder_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.cache_finding(tmp_path / "not" / "yet").severity is Severity.OK
    (tmp_path / "file").write_text("")
    assert "cannot be written" in machine.cache_finding(tmp_path / "file" / "x").message
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    assert "1.0 MiB left" in machine.cache_finding(tmp_path).message


def test_folder_of_blocks_is_judged_as_at_the_start(tmp_path: Path) -> None:
    assert machine.offload_finding(str(tmp_path / "kv")).severity is Severity.OK
    tmp_path.chmod(0o777)
    finding = machine.offload_finding(str(tmp_path))
    assert finding.severity is Severity.PROBLEM
    assert "can be written by other users" in finding.message


def _last(*configs: EngineConfig) -> Finding:
    """What is said of the last model."""
    names = [config.model for config in configs] if len(configs) > 1 else [""]
    models = [ModelToCheck(name, config) for name, config in zip(names, configs, strict=True)]
    return find_model_problems(models).findings[-1]


def test_addresses_of_events_are_bound_as_at_the_start() -> None:
    pytest.importorskip("zmq", reason="pyzmq is not installed (pip install 'headrace[events]')")
    assert list(machine.event_findings([EngineConfig()])) == []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        (found,) = machine.event_findings([EngineConfig(kv_events=address)])
        assert found.severity is Severity.PROBLEM
        assert f"--kv-events {address} cannot be bound (Address already in use)" in found.message
    first, second = machine.event_findings([EngineConfig(kv_events=address)] * 2)  # two models, one address
    assert (first.severity, second.severity) == (Severity.OK, Severity.PROBLEM)


def test_events_without_their_library_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    (found,) = machine.event_findings([EngineConfig(kv_events="tcp://127.0.0.1:5557")])
    assert found.severity is Severity.PROBLEM
    assert "pip install 'headrace[events]'" in found.message


def test_the_memory_is_told_without_a_model() -> None:
    checked = find_model_problems([])
    assert [(each.subject, each.severity) for each in checked.findings] == [("memory", Severity.OK)]
    assert checked.weighed == []


def test_a_model_is_compared_with_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = EngineConfig(str(write_model_folder(tmp_path / "model")))
    assert _last(config).severity is Severity.OK
    monkeypatch.setattr(model, "free_memory_bytes", lambda _: 1000)
    assert "free without swapping" in _last(config).message
    monkeypatch.setattr(model, "obtainable_memory_bytes", lambda _: 1000)
    assert _last(config).severity is Severity.PROBLEM


def test_a_kv_cache_that_is_too_large_is_refused_as_at_the_start(tmp_path: Path) -> None:
    config = EngineConfig(str(write_model_folder(tmp_path / "model")), kv_cache_memory_bytes=900 << 30)
    found = _last(config)
    assert found.severity is Severity.PROBLEM
    assert "--kv-cache-memory-bytes is 900.0 GiB; " in found.message
    assert found.message.endswith("are free after loading the weights; lower it")


@pytest.mark.parametrize("num_seqs", [1, 8])
def test_the_memory_of_all_requests_is_told_for_a_stated_context(num_seqs: int, tmp_path: Path) -> None:
    config = EngineConfig(str(write_model_folder(tmp_path / "model")), max_num_seqs=num_seqs)
    assert "at most" not in _last(config).message
    stated = replace(config, max_model_len=64)
    requests = "requests" if num_seqs > 1 else "request"
    bytes_of_all = format_bytes(num_seqs * 64 * 256)  # of two layers with two heads of 16 in bf16
    assert f"; at most {bytes_of_all} for {num_seqs} {requests} of 64 tokens; " in _last(stated).message


def test_each_of_several_models_is_named_and_weighed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(model, "obtainable_memory_bytes", lambda _: 1000)
    folder = str(write_model_folder(tmp_path / "model"))
    models = [ModelToCheck("one", EngineConfig(folder)), ModelToCheck("two", EngineConfig("owner/repo"))]
    checked = find_model_problems(models)
    _, one, two = checked.findings
    assert one.severity is Severity.OK  # their sum is compared, by who makes the plan for all
    assert one.message.startswith("one: about ")
    assert (two.severity, two.message[:5]) == (Severity.WARNING, "two: ")
    assert checked.weighed[0] is not None
    assert checked.weighed[0].weight_bytes > 0
    assert checked.weighed[1] is None


def test_a_model_that_pools_texts_has_no_kv_cache(tmp_path: Path) -> None:
    config = EngineConfig(str(write_model_folder(tmp_path / "model")), task=Task.EMBED)
    assert "for a batch of texts; it makes vectors or scores" in _last(config).message
    assert "KV cache" not in _last(config).message


def test_a_draft_model_counts_or_is_told(tmp_path: Path) -> None:
    folder = str(write_model_folder(tmp_path / "model"))
    (alone,) = find_model_problems([ModelToCheck("", EngineConfig(folder))]).weighed
    (drafted,) = find_model_problems([ModelToCheck("", EngineConfig(folder, draft_model=folder))]).weighed
    assert alone is not None
    assert drafted is not None
    assert drafted.token_kv_bytes == 2 * alone.token_kv_bytes
    found = _last(EngineConfig(folder, draft_model="owner/repo"))
    text = "owner/repo is not on this machine; the first start downloads it, if there is a model of this name"
    assert found == warning("draft model", text)


@pytest.mark.parametrize(
    ("name", "severity", "text"),
    [
        ("/no/such/model.gguf", Severity.PROBLEM, "does not exist"),
        ("pypi:no-such-package-here", Severity.WARNING, "the first start downloads it"),
        ("owner/repo", Severity.WARNING, "the first start downloads it"),
        ("a model of mine", Severity.PROBLEM, "is neither an existing path nor a hub id; give a folder"),
        ("one/two/three", Severity.PROBLEM, "is neither an existing path nor a hub id"),
    ],
)
def test_a_model_that_is_not_here_is_told(name: str, severity: Severity, text: str) -> None:
    found = _last(EngineConfig(name))
    assert found.severity is severity
    assert text in found.message


def test_a_folder_that_holds_no_model_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"]}')
    found = _last(EngineConfig(str(tmp_path)))
    assert found.severity is Severity.PROBLEM
    assert "has no 'model_type'" in found.message
