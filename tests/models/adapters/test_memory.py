"""The predicted memory of an adapter, by its rank, against one that is prepared."""

from pathlib import Path

import pytest
import torch

from models.adapters.read import read_adapter
from models.attention.cpu import CpuAttention
from models.linear.adapters.memory import packed_numbers, pair_numbers
from models.linear.adapters.native_bank import NativeAdapter
from tests.helpers.adapters import random_adapter
from tests.helpers.checkpoints import load_folder, qwen2_config, random_model
from tests.helpers.loaded import as_loaded


@pytest.mark.parametrize("rank", [3, 5, 16])
def test_sums_are_those_of_a_prepared_adapter(tmp_path: Path, rank: int) -> None:
    model = random_model(qwen2_config())
    model.save_pretrained(tmp_path / "base")
    decoder = load_folder(tmp_path / "base", torch.bfloat16, CpuAttention())
    decoder.enable_adapters(1, rank)
    folder = random_adapter(model, rank=rank, only="_proj$").save(tmp_path / "adapter")
    adapter = read_adapter(folder, as_loaded(decoder, "Qwen2ForCausalLM"))
    layers = [layer for name, layer in decoder.adapted_layers().items() if name != "head"]

    prepared = decoder.prepare_adapter(adapter)

    assert adapter.num_bytes == 4 * pair_numbers(layers, rank)
    num_bytes = 0
    for layer in prepared.layers.values():
        assert isinstance(layer, NativeAdapter)
        assert layer.packed is not None
        num_bytes += sum(part.nbytes for part in layer.packed.kept if isinstance(part, torch.Tensor))
    assert num_bytes == 2 * packed_numbers(layers, rank)
