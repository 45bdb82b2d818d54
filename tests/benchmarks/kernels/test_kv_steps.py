"""benchmarks.kernels.kv_steps: each dtype's steps are timed, over caches that a text fills."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks.kernels import kv_steps
from models.decoder import Decoder
from models.kv.layer import LayerKV
from models.loaded_model import LoadedModel
from models.loading.load import LoadOptions, load_model
from models.sources.resolve import resolve_model
from tests.helpers.checkpoints import llama_config
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kv_steps, "_MAX_ID", VOCAB_SIZE)
    return write_model_folder(tmp_path / "m", llama_config(vocab_size=VOCAB_SIZE, max_position_embeddings=512))


def test_a_line_for_each_dtype(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dtypes", "fp8_e4m3", "--sequences", "2", "--context", "40", "--rounds", "3"]
    monkeypatch.setattr(sys, "argv", ["kv_steps", str(folder), *arguments])

    assert kv_steps.main() == 0

    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " ms" in line]
    assert [line[0].strip("| ") for line in lines] == ["bfloat16", "fp8_e4m3"]
    assert lines[0][2].startswith("1.00 (1.00-1.00)")


def test_a_cache_repeats_the_text(folder: Path) -> None:
    model = load_model(
        resolve_model(str(folder), None, kv_steps._ignore), LoadOptions(dtype="bfloat16"), kv_steps._ignore
    )

    with torch.inference_mode():
        caches = kv_steps._filled_cache(model, "fp8_e4m3", 40)

    for cache in caches:
        assert isinstance(cache, LayerKV)
        for part in cache.parts.values():
            text, *others = part.split(len(part) * 256 // 640)
            assert len(others) == 2
            assert all(torch.equal(other, text[: len(other)]) for other in others)
            assert len(text.unique(dim=0)) > 1


@pytest.mark.parametrize(("dtype", "has_centers"), [("int4", True), ("int8", False)])
def test_keys_have_the_centers_of_an_engine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, has_centers: bool
) -> None:
    centers: list[torch.Tensor] = []

    def measure(model: LoadedModel, dtypes: list[str], *_: int) -> dict[str, list[float]]:
        assert isinstance(model.decoder, Decoder)
        centers.extend(model.decoder.rotated_centers)
        return {name: [1.0] for name in dtypes}

    monkeypatch.setattr(kv_steps, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["kv_steps", str(folder), "--dtypes", dtype])

    assert kv_steps.main() == 0

    assert bool(centers) == has_centers
