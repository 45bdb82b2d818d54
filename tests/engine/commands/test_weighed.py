"""The memory that a model needs, from the headers of its files: keys and values, and recurrent states."""

from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig

from engine.commands.weighed import weigh_files
from engine.config import EngineConfig
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import load_folder, random_model
from tests.models.families.state_space_variants import granite_hybrid, mamba


@pytest.mark.parametrize("config", [granite_hybrid(), mamba()], ids=["hybrid", "without-attention"])
def test_states_are_weighed_beside_keys_and_values(config: PretrainedConfig, tmp_path: Path) -> None:
    random_model(config).save_pretrained(tmp_path)

    weighed = weigh_files(ModelFiles(tmp_path, (), "m"), None, EngineConfig(max_model_len=32, max_num_seqs=4))

    layout = load_folder(tmp_path, torch.bfloat16).cache_layout
    assert weighed.token_kv_bytes == layout.block_bytes(1)
    assert weighed.state_bytes == layout.state_bytes > 0
    assert weighed.least_kv_bytes == layout.block_bytes(32) + layout.state_bytes
    assert weighed.most_kv_bytes == 4 * (layout.block_bytes(32) + 3 * layout.state_bytes)
