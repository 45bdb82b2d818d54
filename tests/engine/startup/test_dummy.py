"""--load-format dummy: an engine from a config.json alone, which nobody can mistake for a model."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.commands.weighed import weigh_files
from engine.config import Device, DType, EngineConfig, LoadFormat, SpeculativeMethod
from engine.errors import OptionError, StartupError
from engine.protocol import EngineInfo
from engine.startup.build import build_engine, build_served_engine
from models.sources.resolve import ModelFiles, resolve_model
from tests.helpers.checkpoints import llama_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    fields = {**llama_config(vocab_size=300).to_dict(), "architectures": ["LlamaForCausalLM"]}
    (root / "config.json").write_text(json.dumps(fields))
    return root


def options(folder: Path, **changes: Any) -> EngineConfig:
    usual: dict[str, Any] = {"device": Device.CPU, "threads": 1, "kv_cache_memory_bytes": 1 << 20}
    return EngineConfig(str(folder), load_format=LoadFormat.DUMMY, **{**usual, **changes})


def info_of(folder: Path, **changes: Any) -> EngineInfo:
    return build_engine(options(folder, **changes), lambda *_: None)[1]


def test_it_says_what_it_is_wherever_a_model_is_described(folder: Path) -> None:
    info = info_of(folder)

    assert info.load_format == "dummy"
    assert info.system_fingerprint is not None
    assert info.system_fingerprint.split("/")[2].startswith("dummy-")
    assert any("random numbers (--load-format dummy)" in warning for warning in info.warnings)
    assert any(note.startswith("Weights: ") and "seed 0" in note for note in info.notes)
    assert info.tokenizer.eos_token_ids == [2]


def test_the_seed_changes_the_weights_of_the_fingerprint_alone(folder: Path) -> None:
    first, second = (str(info_of(folder, dummy_seed=seed).system_fingerprint).split("/") for seed in (1, 2))
    assert [index for index in range(5) if first[index] != second[index]] == [2]


def test_its_memory_is_weighed_without_files(folder: Path) -> None:
    config = options(folder, dtype=DType.BFLOAT16)
    needs = weigh_files(ModelFiles(folder, (), "m"), None, config)
    assert needs.weight_bytes == pytest.approx(info_of(folder, dtype=DType.BFLOAT16).weight_bytes, rel=0.01)


def test_a_draft_model_is_refused(folder: Path) -> None:
    config = options(folder, draft_model="owner/draft", speculative_method=SpeculativeMethod.DRAFT_MODEL)
    with pytest.raises(OptionError, match="whose answers owner/draft cannot predict; leave the draft model out"):
        build_engine(config, lambda *_: None)


@pytest.mark.parametrize("given", [{"quality_report": True}, {"max_quality_loss": 0.1}])
def test_a_quality_report_is_refused(folder: Path, given: dict[str, Any]) -> None:
    with pytest.raises(StartupError, match=r"random numbers, which have no quality for --.* to measure; leave one out"):
        options(folder, **given)


def test_a_seed_without_dummy_weights_is_refused() -> None:
    with pytest.raises(StartupError, match="--dummy-seed is 3, but --load-format is auto; add --load-format dummy"):
        EngineConfig(dummy_seed=3)


def test_a_folder_without_weights_is_still_refused_as_a_model(folder: Path) -> None:
    with pytest.raises(StartupError, match=r"has no model.safetensors"):
        build_served_engine(EngineConfig(str(folder), device=Device.CPU, threads=1), lambda *_: None)


def test_a_hub_repository_needs_no_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.sources.hub.fetch_description", lambda *_: folder)
    monkeypatch.setattr("models.sources.hub.fetch_weights", lambda *_: pytest.fail("weights are fetched"))
    assert resolve_model("owner/repo", None, lambda *_: None, needs_weights=False).root == folder
