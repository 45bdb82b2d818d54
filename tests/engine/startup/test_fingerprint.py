"""system_fingerprint: the same for the same computation, and another part for each thing that changes it."""

from importlib.metadata import version
from pathlib import Path

import pytest

from engine.config import Device, DType, EngineConfig, KVCacheDType, Quantization
from engine.startup.build import build_engine
from tests.helpers.checkpoints import llama_config
from tests.helpers.model_folders import write_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = llama_config(hidden_size=64, num_attention_heads=2, num_key_value_heads=2)
    return write_model_folder(tmp_path_factory.mktemp("model"), config)


def fingerprint(folder: Path, **changes: object) -> list[str]:
    options = {"dtype": DType.BFLOAT16, "kv_cache_memory_bytes": 1 << 20, "max_num_batched_tokens": 256, **changes}
    config = EngineConfig(str(folder), device=Device.CPU, threads=1, weight_cache=False, **options)  # type: ignore[arg-type]
    text = build_engine(config, lambda *_: None)[1].system_fingerprint
    assert text is not None
    return text.split("/")


@pytest.fixture(scope="module")
def usual(folder: Path) -> list[str]:
    return fingerprint(folder)


def test_it_names_mode_and_version_and_kv_dtype(usual: list[str]) -> None:
    assert (len(usual), usual[:2], usual[4]) == (5, ["default", version("headrace")], "bfloat16")


def test_it_is_the_same_after_a_restart_with_other_limits(folder: Path, usual: list[str]) -> None:
    assert fingerprint(folder, max_num_seqs=3) == usual


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"quantization": Quantization.INT4}, 2),
        ({"rope_theta": 500.0}, 2),
        ({"kv_cache_dtype": KVCacheDType.INT8}, 4),
    ],
)
def test_each_part_changes_alone(folder: Path, usual: list[str], options: dict[str, object], part: int) -> None:
    changed = fingerprint(folder, **options)
    assert [index for index in range(5) if changed[index] != usual[index]] == [part]


def test_other_weights_change_their_part_alone(usual: list[str], tmp_path: Path) -> None:
    other = llama_config(hidden_size=64, num_attention_heads=2, num_key_value_heads=1)
    changed = fingerprint(write_model_folder(tmp_path / "other", other))
    assert [index for index in range(5) if changed[index] != usual[index]] == [2]
