"""KV memory of a CUDA device, by --gpu-memory-utilization and a measured full step. Figures are injected."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import Device, DType, EngineConfig, LoadFormat
from engine.errors import StartupError
from engine.runner import device_memory
from engine.runner.device_memory import DeviceMemory, full_steps
from engine.runner.runner import PendingStep, TorchRunner
from engine.sampling.device import DeviceSampler
from engine.sampling.rows import rows_of_plan
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import StepPlan
from engine.startup import build
from engine.startup.build import build_engine
from models.kernels.torch.logits import LogitOperations
from models.system import cuda
from models.system.cuda_graphs import CudaGraphs
from tests.helpers.checkpoints import llama_config

MIB, GIB = 1 << 20, 1 << 30
H100 = DeviceMemory(total_bytes=80 * GIB, other_bytes=GIB, peak_bytes=20 * GIB)
BLOCK_BYTES = 2 * 2 * 16 * 16 * 2 * 2  # layers, keys and values, positions, head size, heads, bf16


def test_the_cache_gets_what_the_share_leaves() -> None:
    assert H100.free_bytes == 59 * GIB
    assert H100.kv_bytes(0.9) == 51 * GIB
    assert H100.kv_bytes(1.0) == 59 * GIB


def test_a_share_that_leaves_nothing_is_a_start_error() -> None:
    with pytest.raises(
        StartupError, match=r"utilization 0.25 of 80.0 GiB leaves nothing.*step take 20.0 GiB.*1.0 GiB;"
    ):
        H100.kv_bytes(0.25)


def test_full_steps_are_long_prompts_and_a_token_of_each_sequence() -> None:
    prompts, decode = full_steps((KVGroup(16),), 100, 40, 5)

    assert [(item.num_new, len(item.sequence.tables[0])) for item in prompts.items] == [(40, 3), (40, 3), (20, 2)]
    assert [(item.num_new, item.sequence.tables, item.needs_logits) for item in decode.items] == [(1, [[0]], True)] * 5
    assert len({item.sequence.id for item in (*prompts.items, *decode.items)}) == 8


def test_a_full_step_has_no_more_prompts_than_sequences() -> None:
    prompts, _ = full_steps((KVGroup(16),), 100, 40, 2)
    assert [item.num_new for item in prompts.items] == [40, 40]


def test_a_full_step_samples_with_all_that_takes_memory_on_a_device() -> None:
    _, decode = full_steps((KVGroup(16),), 100, 40, 5)
    inputs = DeviceSampler(300, torch.device("cpu"), LogitOperations()).inputs(rows_of_plan(decode))
    assert inputs.is_sampled
    assert inputs.is_truncated
    assert inputs.has_edits
    assert inputs.num_top == 20


class Measured:
    """A CPU that answers as a CUDA device does. plans: of the steps while the peak is measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int, others: int, own: int, step: int) -> None:
        self.plans: list[StepPlan] = []
        plans = self.plans

        class SpyingRunner(TorchRunner):
            def launch(self, plan: StepPlan) -> PendingStep:
                plans.append(plan)
                return super().launch(plan)

        def peak_bytes(_: torch.device) -> tuple[int, int]:
            tokens = max((item.num_new for plan in plans for item in plan.items), default=0)
            blocks = -(-tokens // 16)
            return own + step + blocks * BLOCK_BYTES, own

        monkeypatch.setattr(build, "is_host", lambda _: False)
        monkeypatch.setattr(device_memory, "TorchRunner", SpyingRunner)
        monkeypatch.setattr(cuda, "reset_peak", lambda _: None)
        monkeypatch.setattr(cuda, "peak_bytes", peak_bytes)
        monkeypatch.setattr(cuda, "memory_bytes", lambda _: (total - others - own, total))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fields = {**llama_config(vocab_size=300).to_dict(), "architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    return tmp_path


def config(folder: Path, **changes: Any) -> EngineConfig:
    usual: dict[str, Any] = {"device": Device.CPU, "dtype": DType.BFLOAT16, "max_num_seqs": 16, "threads": 1}
    return EngineConfig(str(folder), load_format=LoadFormat.DUMMY, **{**usual, **changes})


def test_an_engine_is_planned_by_its_measured_peak(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    measured = Measured(monkeypatch, total=4 * MIB, others=MIB, own=MIB, step=MIB // 2)
    _, info = build_engine(config(folder, gpu_memory_utilization=0.75), lambda *_: None)

    assert [len(plan.items) for plan in measured.plans] == [16, 16]  # of the longest context, and of a token
    assert {item.num_new for item in measured.plans[0].items} == {256}
    assert info.kv_bytes == (3 * MIB - 2 * MIB - MIB // 2) // BLOCK_BYTES * BLOCK_BYTES
    notes = "\n".join(info.notes)
    assert "4.0 MiB on cpu; weights and the largest step take 1.5 MiB, others 1.0 MiB" in notes
    assert "what --gpu-memory-utilization 0.75 leaves beside a full step" in notes


def test_a_size_that_was_set_may_take_more_than_the_share(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    Measured(monkeypatch, total=4 * MIB, others=MIB, own=MIB, step=MIB // 2)
    sized = config(folder, gpu_memory_utilization=0.5, kv_cache_memory_bytes=MIB)
    assert build_engine(sized, lambda *_: None)[1].kv_bytes == MIB
    with pytest.raises(StartupError, match=r"--kv-cache-memory-bytes is 2.0 MiB; 1.5 MiB of memory are free"):
        build_engine(config(folder, kv_cache_memory_bytes=2 * MIB), lambda *_: None)


def test_memory_that_only_graphs_use_is_part_of_the_peak(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    Measured(monkeypatch, total=4 * MIB, others=MIB, own=MIB, step=MIB // 2)
    graphs = CudaGraphs(torch.device("cpu"))
    graphs.pool_bytes = MIB // 4
    for module in (build, device_memory):
        monkeypatch.setattr(module, "graphs_of", lambda _: graphs)
    notes = "\n".join(build_engine(config(folder), lambda *_: None)[1].notes)
    assert "weights and the largest step take 1.8 MiB" in notes
    assert "Steps: none are captured as graphs (attention by" in notes


def test_steps_of_a_device_are_those_of_a_device(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    measured = Measured(monkeypatch, total=4 * MIB, others=MIB, own=MIB, step=MIB // 2)
    _, info = build_engine(config(folder, max_num_batched_tokens=64), lambda *_: None)
    assert [plan.num_tokens for plan in measured.plans] == [64, 16]
    assert info.max_num_batched_tokens == 64
