"""Checkpoints of `headrace quantize`, compared with the values of compressed-tensors' own decompressor.

tests/fixtures/quantized/make_written.py saved the library's values; test_checkpoints.py reads these fixtures, too.
"""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from engine.command_io.quantize_config import QuantizationMethod, QuantizeConfig, Scheme
from engine.commands.quantize.checkpoint_writer import OUTPUT_FORMATS
from engine.commands.quantize.convert import convert
from models.loading.open import open_model
from models.quant.tensor import Encoding
from models.sources.resolve import ModelFiles
from tests.helpers.quantized import QUANTIZED, expected_of

WRITTEN = {
    "ct-int4-written": (Scheme.INT4, {}),
    "ct-int8-written": (Scheme.INT8, {}),
    "ct-fp8-written": (Scheme.FP8, {}),
    "ct-w8a8-written": (Scheme.W8A8, {"tie_word_embeddings": True}),
    "ct-fp8-dynamic-written": (Scheme.FP8_DYNAMIC, {}),
}
LARGEST_ERRORS = {Encoding.INT4: 0.12, Encoding.INT8: 0.012, Encoding.FP8_E4M3: 0.04}


def fixture_module() -> ModuleType:
    """tests/fixtures/quantized/tiny_llama.py, which runs in other environments and is no part of a package."""
    spec = importlib.util.spec_from_file_location("tiny_llama", QUANTIZED / "tiny_llama.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_folder_that_the_library_read_is_written_again(kind: str, tmp_path: Path) -> None:
    scheme, sizes = WRITTEN[kind]
    source, out = tmp_path / "in", tmp_path / "out"
    fixture_module().tiny_llama(**sizes).save_pretrained(source)
    out.mkdir()
    files = ModelFiles(source, (), str(source))
    config = QuantizeConfig(scheme=scheme, method=QuantizationMethod.RTN, out=str(out))
    convert(files, open_model(files), config, None, out, lambda *_: None)

    written, fixture = load_file(out / "model.safetensors"), load_file(QUANTIZED / kind / "model.safetensors")
    assert written.keys() == fixture.keys()
    for name, tensor in fixture.items():
        if scheme is Scheme.INT4 and not name.endswith(("weight_packed", "weight_scale")):
            assert torch.equal(written[name], tensor), name
        else:  # the last bit of fp32, which depends on the machine, chooses some of int4's scales
            assert written[name].dtype == tensor.dtype
            assert (written[name].view(torch.uint8) != tensor.view(torch.uint8)).float().mean() < 0.05, name
    fields = json.loads((out / "config.json").read_text())["quantization_config"]
    assert fields == json.loads((QUANTIZED / kind / "config.json").read_text())["quantization_config"]


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_library_read_the_weights_that_were_quantized(kind: str) -> None:
    """The library's values are near the original model's, so codes, scales and their order are the format's."""
    scheme, sizes = WRITTEN[kind]
    expected, _, _ = expected_of(kind)
    before = fixture_module().tiny_llama(**sizes).state_dict()
    for name, values in expected.items():
        error = float((values.float() - before[name].float()).norm() / before[name].float().norm())
        assert 0 < error < LARGEST_ERRORS[OUTPUT_FORMATS[scheme].encoding], name
