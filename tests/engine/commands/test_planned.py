"""Sizes of planned models: as an engine has them once it is loaded, and with other options."""

import dataclasses
from collections.abc import Callable

import msgspec
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from engine.commands import planned
from engine.commands.bench.machine import Machine
from engine.commands.planned import plan_models, size_model
from engine.config import Device, EngineConfig, KVCacheDType, Quantization
from engine.errors import OptionError
from engine.runner.step_work import model_work
from engine.simulation.costs import MeasuredTimes
from engine.simulation.hardware import SimulatedModel, model_faults
from engine.simulation.planning.job import PlanJob, PlannedModels
from engine.startup.build import build_engine
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, random_model

MACHINE = Machine("a test's", "cpu", 1, 64, read_bytes_per_s=1e9, gemm_flops_per_s={"bfloat16": 1e9, "int8": 4e9})
TIMES = MeasuredTimes(((1, 0.5), (2, 0.75)), ((1, 0.0),), 0.0, 0.0)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    """Options for a model with layers that kernels need not pad."""
    path = tmp_path_factory.mktemp("model")
    random_model(llama_config(hidden_size=256, intermediate_size=512)).bfloat16().save_pretrained(path)
    vocab = {f"t{index}": index for index in range(VOCAB_SIZE)}
    Tokenizer(WordLevel(vocab, unk_token="t0")).save(str(path / "tokenizer.json"))
    return EngineConfig(model=str(path), device=Device.CPU, threads=1, max_num_seqs=4, weight_cache=False)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quantization": Quantization.INT8},
        {"quantization": Quantization.INT4, "quantize_head": True},
        {"kv_cache_dtype": KVCacheDType.INT8, "max_model_len": 100},
    ],
)
def test_memory_is_that_of_the_loaded_engine(options: dict[str, object], config: EngineConfig) -> None:
    config = dataclasses.replace(config, **options)  # type: ignore[arg-type]
    engine, info = build_engine(config, lambda *_: None)
    sized = size_model(config)
    assert sized.weight_bytes == pytest.approx(info.weight_bytes, rel=0.02)
    assert sized.kv_bytes == pytest.approx(info.kv_bytes, rel=0.02)
    assert (sized.num_blocks, sized.max_model_len) == (info.num_blocks, info.max_model_len)
    assert sized.kv_groups == engine._runner.kv_groups  # type: ignore[attr-defined]
    work = model_work(engine._runner._model)  # type: ignore[attr-defined]
    assert work is not None
    assert sized.work.every.num_bytes == pytest.approx(work.every.num_bytes, rel=0.02)
    assert dataclasses.replace(sized.work, every=work.every, late=work.late, head=work.head) == work
    served = msgspec.json.decode(info.simulated, type=SimulatedModel)  # of GET /v1/plan
    assert (served.work, served.kv_groups, served.num_blocks) == (work, sized.kv_groups, info.num_blocks)
    assert list(model_faults(served)) == []


def test_this_machine_has_its_measured_limits(config: EngineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "_machine", lambda *_: MACHINE)
    job = PlanJob(config, None, {"int8": dataclasses.replace(config, quantization=Quantization.INT8)})
    made = plan_models(job)
    (variant,) = made.variants
    assert made.model.limits is not None
    assert variant.model is not None
    assert variant.model.limits is not None
    assert (made.model.origin, made.model.limits.flops_per_s) == ("measured limits", 1e9)
    assert variant.model.limits.flops_per_s == 4e9  # narrow weights are multiplied in int8
    assert variant.model.weight_bytes < 0.7 * made.model.weight_bytes
    assert "a test's, 1 threads, 1.0 GB/s (20" in made.model.source


def test_a_variant_of_a_saved_file_has_its_memory_and_reads_its_own_weights(config: EngineConfig) -> None:
    sized = size_model(config)
    saved = dataclasses.replace(sized, measured=TIMES, source="saved")
    variants = {
        "kv": dataclasses.replace(config, kv_cache_dtype=KVCacheDType.INT8),
        "int8": dataclasses.replace(config, quantization=Quantization.INT8),
        "long": dataclasses.replace(config, max_model_len=1 << 20),
    }
    made = plan_models(PlanJob(config, saved, variants))
    kv, int8, long = made.variants
    assert made.model == saved
    assert kv.model is not None
    assert int8.model is not None
    assert int8.model.measured is not None
    assert kv.model.kv_bytes == pytest.approx(saved.kv_bytes, rel=0.01)
    assert kv.model.num_blocks > 1.5 * saved.num_blocks
    assert kv.model.measured == TIMES
    first_s = 0.5 * int8.model.weight_bytes / saved.weight_bytes
    assert [each[1] for each in int8.model.measured.rows_s] == pytest.approx([first_s, first_s + 0.25])
    assert long.model is None
    assert long.failure is not None
    assert "--max-model-len is 1,048,576" in long.failure


def test_a_file_of_another_model_is_refused(config: EngineConfig) -> None:
    sized = size_model(config)
    every = dataclasses.replace(sized.work.every, flops_per_row=1)
    other = dataclasses.replace(sized, model="other", measured=TIMES, work=dataclasses.replace(sized.work, every=every))
    with pytest.raises(OptionError, match="was saved for other, which is not"):
        plan_models(PlanJob(config, other, {}))


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], int]:
    """The process's main, without what would change how the process of these tests ends."""
    monkeypatch.setattr(planned, "exit_on_sigterm", lambda: None)
    monkeypatch.setattr(planned, "end_with_parent", lambda: None)
    return planned.main


@pytest.mark.parametrize("model", ["/none/here", "owner/repo", "pypi:none-of-these"])
def test_a_model_that_is_not_here_names_those_that_are(
    model: str, main: Callable[[list[str]], int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([msgspec.json.encode(PlanJob(EngineConfig(model=model), "h100", {})).decode()]) == 2
    shown = capfd.readouterr().err
    assert f"there is no model {model}" in shown
    assert "models on this machine: " in shown


def test_the_process_prints_the_models(
    config: EngineConfig, main: Callable[[list[str]], int], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main([msgspec.json.encode(PlanJob(config, "l4", {"same": config})).decode()]) == 0
    made = msgspec.json.decode(capfdbinary.readouterr().out, type=PlannedModels)
    assert made.variants[0].model == made.model
    assert made.model.origin == "published"
