"""The dtype that a model is trained in, and models that cannot be trained."""

from pathlib import Path

import pytest
import torch

from models.architecture.kv_layout import KVLayout
from models.errors import UnsupportedModelError
from models.loading.load import LoadOptions
from models.sources.resolve import resolve_model
from models.training.load import load_for_training
from tests.helpers.checkpoints import llama_config, random_model, save_model
from tests.models.families.deepseek_v32_variants import deepseek_v32


@pytest.mark.parametrize(
    ("given", "capability", "dtype"),
    [
        ("auto", "AVX2", torch.float32),  # torch multiplies bf16 without any vector instruction there
        ("auto", "AVX512", torch.bfloat16),
        ("bfloat16", "AVX2", torch.bfloat16),
    ],
)
def test_auto_is_fp32_where_bf16_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, capability: str, dtype: torch.dtype
) -> None:
    random_model(llama_config()).save_pretrained(tmp_path)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    files = resolve_model(str(tmp_path), None, lambda *_: None)

    decoder = load_for_training(files, LoadOptions(dtype=given, kv_dtype="int8"), lambda *_: None).decoder

    assert decoder.compute_dtype == dtype
    assert {layout.code_dtype for layout in decoder.cache_layout.layers if isinstance(layout, KVLayout)} == {None}


def test_a_model_with_an_indexer_is_refused_before_its_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(random_model(deepseek_v32()), tmp_path)
    monkeypatch.setattr("models.training.load.build_decoder", lambda *_: pytest.fail("weights are read"))
    files = resolve_model(str(tmp_path), None, lambda *_: None)

    with pytest.raises(UnsupportedModelError, match=r"DeepseekV32ForCausalLM cannot be trained.*indexer chooses"):
        load_for_training(files, LoadOptions(), lambda *_: None)
