"""compute_identity: differs where two engines may compute different numbers, and survives a copy of the files."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig, KVCacheDType, Quantization
from engine.errors import StartupError
from engine.quality import records
from engine.speculation.settings import speculation_settings
from engine.startup.identity import ComputeIdentity, compute_identity, hash_texts, kv_fingerprint
from engine.startup.load import EngineModels, load_models
from tests.helpers.checkpoints import llama_config
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = llama_config(vocab_size=VOCAB_SIZE, rope_parameters=DYNAMIC, max_position_embeddings=64)
    return write_model_folder(tmp_path_factory.mktemp("model"), config)


@pytest.fixture(autouse=True)
def cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(records, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def load(folder: Path, *, served: int = 64, **options: object) -> tuple[EngineConfig, EngineModels]:
    config = EngineConfig(model=str(folder), weight_cache=False, **options)  # type: ignore[arg-type]
    spec, device = speculation_settings(config), torch.device("cpu")
    models = load_models(config, spec, device, lambda *_: None, lambda _: None)
    models.serve_context(served)
    return config, models


def identify(folder: Path, **options: object) -> ComputeIdentity:
    return compute_identity(*load(folder, **options))  # type: ignore[arg-type]


def test_copies_of_a_model_have_one_identity(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile))
    assert identify(folder) == identify(copy)
    assert identify(folder).digest() == identify(folder).digest()


def test_one_changed_bit_in_the_weights_changes_the_identity(folder: Path) -> None:
    before, path = identify(folder), folder / "model.safetensors"
    times, data = path.stat(), path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = identify(folder)
    assert before.weights != after.weights
    assert before.digest() != after.digest()


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("storage", {"quantization": Quantization.INT8}),
        ("kv_dtype", {"kv_cache_dtype": KVCacheDType.INT8}),
        ("rotary", {"kv_cache_dtype": KVCacheDType.INT4}),  # centers of keys
        ("overrides", {"rope_theta": 500.0}),
        ("mode", {"deterministic": True}),
        ("rotary", {"served": 128, "hf_overrides": '{"max_position_embeddings": 64}'}),
    ],
)
def test_options_that_change_numbers_change_their_field(folder: Path, field: str, options: dict[str, object]) -> None:
    before, after = identify(folder), identify(folder, **options)
    assert getattr(before, field) != getattr(after, field)
    assert before.digest() != after.digest()


def test_another_version_of_torch_changes_the_kernels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, models = load(folder)
    before = compute_identity(config, models)
    monkeypatch.setattr(torch, "__version__", "0.0.1")
    assert compute_identity(config, models).kernels != before.kernels


def test_a_larger_block_changes_the_fingerprint_of_blocks_alone(folder: Path) -> None:
    config, models = load(folder)
    identity = compute_identity(config, models)
    small, large = (kv_fingerprint(identity, models.target, size) for size in (16, 32))
    assert small != large
    assert small == kv_fingerprint(identity, models.target, 16)


def test_weights_that_changed_after_loading_are_refused(folder: Path) -> None:
    config, models = load(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(StartupError, match=r"cannot be identified.*start again"):
        compute_identity(config, models)


def test_later_starts_do_not_read_the_files_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = identify(folder)
    monkeypatch.setattr(records, "_hash_of", lambda *_: pytest.fail("the weights are hashed again"))
    assert identify(folder) == first


def test_a_hash_of_texts_shows_where_one_ends() -> None:
    assert hash_texts(["ab", "c"]) != hash_texts(["a", "bc"])
