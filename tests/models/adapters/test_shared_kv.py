"""Adapters with pairs for keys and values of layers that read those of another layer."""

import logging
from pathlib import Path

import pytest

from models.adapters.read import read_adapter
from models.errors import AdapterError
from models.loaded_model import LoadedModel
from tests.helpers.adapters import RandomAdapter, random_adapter
from tests.helpers.checkpoints import load_folder, random_model
from tests.helpers.loaded import as_loaded
from tests.models.families.gemma3n_variants import GEMMA3N_VARIANTS

# The variant's last two of four layers read the keys and values of the two before.
OWNER, READER = (f"model.layers.{index}.self_attn" for index in (1, 3))


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    folder = tmp_path / "model"
    random_model(GEMMA3N_VARIANTS["gemma3n"]()).save_pretrained(folder)
    return as_loaded(load_folder(folder), "Gemma3nForCausalLM")


@pytest.fixture
def adapter() -> RandomAdapter:
    return random_adapter(random_model(GEMMA3N_VARIANTS["gemma3n"]()), only=r"self_attn\.[qkv]_proj$")


def _with_reader_pairs(adapter: RandomAdapter) -> RandomAdapter:
    """Add pairs as training leaves them that gives each layer matrices of its own."""
    for part in ("k_proj", "v_proj"):
        for matrix in ("lora_A.weight", "lora_B.weight"):
            adapter.tensors[f"{READER}.{part}", matrix] = adapter.tensors[f"{OWNER}.{part}", matrix].clone()
    return adapter


def test_pairs_that_change_nothing_are_left_out_and_logged(
    model: LoadedModel, adapter: RandomAdapter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = read_adapter(adapter.save(tmp_path / "plain"), model)
    assert not caplog.messages

    with caplog.at_level(logging.INFO):
        found = read_adapter(_with_reader_pairs(adapter).save(tmp_path / "more"), model)

    assert found.digest == plain.digest
    assert caplog.messages == [
        f"{tmp_path / 'more/adapter_model.safetensors'}: 2 tensors are for keys and values of layers that use another "
        "layer's; they change nothing"
    ]


def test_queries_of_such_a_layer_are_changed(model: LoadedModel, adapter: RandomAdapter, tmp_path: Path) -> None:
    found = read_adapter(_with_reader_pairs(adapter).save(tmp_path / "more"), model)

    assert len(found.layers["layers.3.attn.qkv"].pairs) == 1
    assert len(found.layers["layers.1.attn.qkv"].pairs) == 3


def test_adapter_without_any_effect_is_refused(model: LoadedModel, adapter: RandomAdapter, tmp_path: Path) -> None:
    of_reader = {key: tensor for key, tensor in _with_reader_pairs(adapter).tensors.items() if READER in key[0]}
    idle = RandomAdapter(adapter.config, {key: tensor for key, tensor in of_reader.items() if "q_proj" not in key[0]})

    with pytest.raises(AdapterError, match="has no tensors that change this model"):
        read_adapter(idle.save(tmp_path / "idle"), model)
