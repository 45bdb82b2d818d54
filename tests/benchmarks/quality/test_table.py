"""benchmarks/quality/table: what is measured is stored, and shown as the table of docs/quantization.md."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import msgspec
import pytest

from benchmarks.quality import table
from benchmarks.quality.table import WAYS, Figures, fill_quality, fill_serving, load, show
from engine.protocol import Quality
from engine.quality import report
from tests.helpers.checkpoints import llama_config
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder


def test_qualities_are_measured_once_and_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "builtin_text", lambda: "The channel that feeds the wheel is called a headrace. " * 4)
    model = write_model_folder(tmp_path / "tiny", llama_config(vocab_size=VOCAB_SIZE))
    ways = [way for way in WAYS if way.name in ("bf16", "int4")]
    fill_quality(model, ways, tmp_path)
    bf16, int4 = (load(tmp_path)["tiny"][way.name].quality for way in ways)
    assert bf16 is not None
    assert bf16.kl_divergence == pytest.approx(0.0, abs=1e-6)
    assert int4 is not None
    assert int4.kl_divergence > 1e-4
    monkeypatch.setattr(table, "measure_reference", None)
    fill_quality(model, ways, tmp_path)


def test_figures_become_a_table_that_names_its_baseline() -> None:
    quality = Quality(
        kl_divergence=0.0625,
        top1_agreement=0.85,
        perplexity=22.0,
        reference_perplexity=20.0,
        num_tokens=2848,
        reference="/models/q.gguf dequantized, in bfloat16",
    )
    figures = {
        "stored": Figures(None, {"q4_1": 210, "f32": 61}, 103.4, 231.9, 98.76),
        "int4-rtn": Figures(quality),
    }
    lines = show("q.gguf", figures).splitlines()
    assert lines[0] == "Baseline: q.gguf dequantized, in bfloat16; 2,848 tokens."
    assert lines[4] == "| `quantize --scheme int4 --method rtn` | 22.00 | +10.00% | 0.0625 | 85.0% | - | - | - |"
    nothing = Figures(msgspec.structs.replace(quality, perplexity=19.9999, kl_divergence=-1e-8))
    assert "| +0.00% | 0.0000 |" in show("q.gguf", {"bf16": nothing})
    assert lines[5] == "| as stored: q4_1 210, f32 61 | - | - | - | - | 103 | 232 | 98.8 |"


def test_memory_needs_no_timing_and_timing_brings_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []

    @contextlib.contextmanager
    def started(*_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(url="http://test", memory_mb=lambda: 450.0 + len(loads))

    def put_load(_scenario: object, _url: str, flags: str, _name: str) -> dict[str, object]:
        loads.append(flags)
        return {"summary": {"tpot_ms": {"p50": 8.0}}}

    own = {"data": [{"headrace": {"weight_bytes": 97_000_000, "weight_formats": {"q4_1": 210}}}]}
    monkeypatch.setattr(table, "started", started)
    monkeypatch.setattr(table, "put_load", put_load)
    monkeypatch.setattr(httpx, "get", lambda *_, **__: SimpleNamespace(json=lambda: own))
    ways = [way for way in WAYS if way.name == "stored"]
    options = argparse.Namespace(folder=tmp_path, port=1)
    for is_timed in (False, False, True, True):
        fill_serving(Path("q.gguf"), ways, options, is_timed=is_timed)
        figures = load(tmp_path)["q.gguf"]["stored"]
        assert (figures.resident_mb, figures.tokens_per_s) == ((452.0, 125.0) if is_timed else (451.0, 0.0))
    assert loads == ["--num-prompts 1", ""]
