"""benchmarks.quality.rounded_rows: a row for each kind of linear layer, and none of them touches another."""

from pathlib import Path

import pytest

from benchmarks.quality import rounded_rows
from models.quant.tensor import Encoding
from tests.helpers.checkpoints import llama_config
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder


def test_kinds_are_rounded_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        rounded_rows, "builtin_text", lambda: "The channel that feeds the wheel is called a headrace. " * 4
    )
    model = write_model_folder(tmp_path / "m", llama_config(vocab_size=VOCAB_SIZE))

    table = rounded_rows.measure(model, Encoding.FP8_E4M3, lambda *_: None)

    divergences = {kind: float(divergence) for kind, _, _, divergence in table}
    kinds = ["attn.qkv", "attn.out", "mlp.gate_up", "mlp.down"]
    assert sorted(divergences) == sorted(["none", "all", *kinds])
    assert divergences["none"] == 0
    assert all(0 < divergences[kind] < divergences["all"] for kind in kinds)
    assert divergences["all"] < 3 * sum(divergences[kind] for kind in kinds)
