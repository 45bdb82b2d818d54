"""What is written of a model for those who prepare a job; and the exit status that says whether to try again."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.child_processes.background import TRY_AGAIN
from engine.config import EngineConfig, Task
from engine.finetuning import describe
from engine.protocol import TokenizerInfo
from tests.helpers.model_folders import write_model_folder


@pytest.fixture(autouse=True)
def no_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe, "exit_on_sigterm", lambda: None)
    monkeypatch.setattr(describe, "end_with_parent", lambda: None)


def _describe(folder: Path, model: str, **options: Any) -> int:
    return describe.main([str(folder), msgspec.json.encode(EngineConfig(model=model, **options)).decode()])


def test_tokenizer_and_context_are_written(tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model")
    assert _describe(tmp_path, str(model)) == 0
    assert msgspec.msgpack.decode((tmp_path / "tokenizer.msgpack").read_bytes(), type=TokenizerInfo).tokenizer_json
    assert json.loads((tmp_path / "context.json").read_bytes()) == 256
    assert json.loads((tmp_path / "capabilities.json").read_bytes()) == ["completion"]


def test_capabilities_of_a_model_that_pools_are_written(tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model")
    assert _describe(tmp_path, str(model), task=Task.EMBED) == 0
    assert json.loads((tmp_path / "capabilities.json").read_bytes()) == ["embedding"]


def test_overridden_fields_of_the_configuration_count(tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model")
    assert _describe(tmp_path, str(model), hf_overrides='{"max_position_embeddings": 64}') == 0
    assert json.loads((tmp_path / "context.json").read_bytes()) == 64


@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOSPC, TRY_AGAIN), (errno.EDQUOT, TRY_AGAIN), (errno.EACCES, 1)]
)
def test_a_full_disk_will_pass(
    tmp_path: Path, number: int, status: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("models.sources.resolve.resolve_model", fails)
    assert _describe(tmp_path, "tiny") == status
    assert capfd.readouterr().err.splitlines()[-1].startswith("headrace: ")


def test_a_model_that_is_none_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _describe(tmp_path, str(tmp_path / "missing")) == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith("headrace: ")
