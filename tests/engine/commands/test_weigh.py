"""What models need of the memory is told before any of them is loaded."""

from pathlib import Path

import msgspec
import pytest

from engine.client.interface import ignore
from engine.command_io.weighing import Weighed, Weighing, WeighMessage
from engine.commands import weigh
from engine.commands.weighed import open_as_served
from engine.config import Device, DType, EngineConfig, Quantization, Task
from engine.startup.load import load_options
from models.loading.load import build_decoder, compute_config
from models.loading.open import OpenedModel
from models.sources.resolve import resolve_model
from tests.helpers.checkpoints import SMALL, llama_config, random_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    random_model(llama_config()).bfloat16().save_pretrained(path)
    return path


def _weighed(capfdbinary: pytest.CaptureFixture[bytes], *configs: EngineConfig) -> list[Weighed]:
    assert weigh.main([msgspec.json.encode(configs).decode()]) == 0
    messages = [msgspec.json.decode(line, type=WeighMessage) for line in capfdbinary.readouterr().out.splitlines()]
    return [message for message in messages if not isinstance(message, Weighing)]


def _config(folder: Path, **options: object) -> EngineConfig:
    return EngineConfig(model=str(folder), device=Device.CPU, max_num_seqs=4, **options)  # type: ignore[arg-type]


def test_weights_and_kv_cache_are_told_in_bytes(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (each,) = _weighed(capfdbinary, _config(folder))
    stored = (folder / "model.safetensors").stat().st_size
    head_size = SMALL["hidden_size"] // SMALL["num_attention_heads"]
    per_token = 2 * SMALL["num_hidden_layers"] * SMALL["num_key_value_heads"] * 2 * head_size
    assert each.weight_bytes == pytest.approx(stored, rel=0.01)  # and a configuration
    assert each.least_kv_bytes == per_token * SMALL["max_position_embeddings"]
    assert each.most_kv_bytes == 4 * each.least_kv_bytes
    assert each.free_bytes > 0
    assert each.failure is None


@pytest.mark.parametrize("quantization", [Quantization.AUTO, Quantization.INT8, Quantization.INT4, Quantization.NF4])
def test_weights_are_weighed_as_the_loader_stores_them(
    quantization: Quantization, folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    config = _config(folder, quantization=quantization, weight_cache=False)
    (each,) = _weighed(capfdbinary, config)
    options, opened = load_options(config, "cpu"), open_as_served(resolve_model(str(folder), None, ignore), config)
    assert isinstance(opened, OpenedModel)
    compute, _ = compute_config(opened, options, ignore)
    decoder, _ = build_decoder(opened, compute, options.weights, ignore)
    assert each.weight_bytes == pytest.approx(decoder.weight_bytes(), rel=0.03)  # padding of small matrices


def test_options_count(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    plain, wide, short, drafted = _weighed(
        capfdbinary,
        _config(folder),
        _config(folder, dtype=DType.FLOAT32),
        _config(folder, max_model_len=48),
        _config(folder, draft_model=str(folder)),
    )
    assert wide.weight_bytes == pytest.approx(2 * plain.weight_bytes, rel=0.1)
    assert short.least_kv_bytes == plain.least_kv_bytes * 48 // 256
    assert wide.least_kv_bytes == 2 * plain.least_kv_bytes
    assert drafted.weight_bytes == 2 * plain.weight_bytes
    assert (drafted.least_kv_bytes, drafted.most_kv_bytes) == (2 * plain.least_kv_bytes, 2 * plain.most_kv_bytes)


def test_adapters_count_by_the_limits(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    none, some, twice = _weighed(
        capfdbinary,
        _config(folder),
        _config(folder, enable_lora=True, max_lora_rank=16, max_loras=2),
        _config(folder, enable_lora=True, max_lora_rank=32, max_loras=2),
    )
    assert none.adapter_bytes == 0
    assert some.adapter_bytes > 0
    assert twice.adapter_bytes == 2 * some.adapter_bytes


def test_the_layers_that_adapters_can_be_trained_for_are_told(
    folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    without, pooling, some = _weighed(
        capfdbinary,
        _config(folder),
        _config(folder, enable_lora=True, task=Task.EMBED),
        _config(folder, enable_lora=True),
    )
    assert (without.trainable_layers, pooling.trainable_layers) == ([], [])
    assert some.trainable_layers == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_a_model_that_pools_texts_has_no_kv_cache(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    generating, pooling = _weighed(capfdbinary, _config(folder), _config(folder, task=Task.EMBED))
    assert (generating.has_kv_cache, pooling.has_kv_cache) == (True, False)
    assert pooling.most_kv_bytes == pooling.least_kv_bytes > 0  # of the largest batch
    assert (generating.capabilities, pooling.capabilities) == (["completion"], ["embedding"])


def test_a_draft_model_counts_as_it_is_stored(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    plain, wide = _weighed(capfdbinary, _config(folder), _config(folder, draft_model=str(folder), dtype=DType.FLOAT32))
    assert wide.weight_bytes == pytest.approx(4 * plain.weight_bytes, rel=0.1)
    assert wide.least_kv_bytes == 4 * plain.least_kv_bytes


def test_one_that_cannot_be_served_is_told_and_the_others_are_weighed(
    folder: Path, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    missing, present = _weighed(capfdbinary, EngineConfig(model=str(tmp_path / "none")), _config(folder))
    assert "does not exist" in (missing.failure or "")
    assert present.failure is None
