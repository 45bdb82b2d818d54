"""Refusals of --deterministic by name, and its effects on drafts, kernels and the fingerprint."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from engine.config import Device, DraftSampling, DType, EngineConfig, ModelImpl
from engine.errors import OptionError
from engine.speculation.settings import speculation_settings
from engine.startup import determinism
from engine.startup.build import build_engine
from models.kernels.cpu import operations
from models.kernels.cpu.library import allow_amx
from tests.helpers.checkpoints import llama_config
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder
from tests.models.families.deepseek_variants import deepseek_v3
from tests.models.families.recurrent_variants import lfm2


def _small(**changes: object) -> PretrainedConfig:
    return llama_config(vocab_size=VOCAB_SIZE, hidden_size=64, num_attention_heads=2, num_key_value_heads=2, **changes)


@pytest.fixture(autouse=True)
def amx() -> Iterator[None]:
    yield
    allow_amx(True)


def _build(folder: Path, **options: Any) -> str | None:
    options = {"dtype": DType.BFLOAT16, "kv_cache_memory_bytes": 1 << 20, "max_num_batched_tokens": 256, **options}
    config = EngineConfig(str(folder), device=Device.CPU, threads=1, weight_cache=False, deterministic=True, **options)
    return build_engine(config, lambda *_: None)[1].system_fingerprint


REFUSED: dict[str, tuple[Callable[[], PretrainedConfig], dict[str, object], str]] = {
    "float32": (_small, {"dtype": DType.FLOAT32}, "float32.*--dtype bfloat16"),
    "transformers": (_small, {"model_impl": ModelImpl.TRANSFORMERS}, "transformers' code"),
    "blocks": (_small, {"block_size": 8}, "--block-size is 8; make it a multiple of 16"),
    "sizes": (lambda: _small(intermediate_size=56), {}, r"no native kernel .*down"),
    "heads": (lambda: deepseek_v3(vocab_size=VOCAB_SIZE, qk_nope_head_dim=24), {}, r"torch multiplies .*k_up"),
    "states": (lambda: lfm2(vocab_size=VOCAB_SIZE), {}, "recurrent layers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_hold_it_is_refused_by_name(tmp_path: Path, name: str) -> None:
    config, options, message = REFUSED[name]
    folder = write_model_folder(tmp_path / "model", config())
    with pytest.raises(OptionError, match=f"--deterministic does not hold.*{message}"):
        _build(folder, **options)


def test_experts_that_torch_computes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "supports_experts", lambda _: False)  # as where gate and up differ in format
    folder = write_model_folder(tmp_path / "model", deepseek_v3(vocab_size=VOCAB_SIZE))
    with pytest.raises(OptionError, match=r"torch computes the experts of .*layers\.1\."):
        _build(folder)


def test_native_experts_and_head_products_are_accepted(tmp_path: Path) -> None:
    assert _build(write_model_folder(tmp_path / "model", deepseek_v3(vocab_size=VOCAB_SIZE))) is not None


def test_it_turns_amx_off_and_is_the_mode_of_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[bool] = []
    monkeypatch.setattr(determinism, "allow_amx", allowed.append)
    fingerprint = _build(write_model_folder(tmp_path / "model", _small()))
    assert fingerprint is not None
    assert fingerprint.startswith("deterministic/")
    assert allowed == [False]


@pytest.mark.parametrize(
    ("deterministic", "level", "words"),
    [(True, "amx", ["Exactness: to the bit"]), (False, "amx", ["Exactness: AMX rounds"]), (False, "avx2", [])],
)
def test_start_says_whether_answers_are_exact(deterministic: bool, level: str, words: list[str]) -> None:
    model = SimpleNamespace(dtype=torch.bfloat16, compute=SimpleNamespace(ops=SimpleNamespace(level=level)))
    notes = determinism.describe_exactness(EngineConfig(deterministic=deterministic), model)  # type: ignore[arg-type]
    assert [note[: len(start)] for note, start in zip(notes, words, strict=True)] == words


@pytest.mark.parametrize(("deterministic", "expected"), [(True, DraftSampling.GREEDY), (False, DraftSampling.SAMPLED)])
def test_drafts_are_never_drawn(deterministic: bool, expected: DraftSampling) -> None:
    settings = speculation_settings(EngineConfig(draft_model="small", deterministic=deterministic))
    assert settings.draft_sampling is expected
