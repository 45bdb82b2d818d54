"""The memory that a model needs, from the headers of its files: keys and values, and recurrent states."""

from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig

from engine.commands.weighed import weigh_files
from engine.config import EngineConfig, KVCacheDType
from models.architecture.kv_layout import KV_DTYPES
from models.attention.cpu import CpuAttention
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import llama_config, load_folder, random_model
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


@pytest.mark.parametrize(("dtype", "ratio"), [(KVCacheDType.INT8, 66 / 128), (KVCacheDType.INT4, 36 / 128)])
def test_codes_of_keys_and_values_are_weighed_with_their_scales(
    dtype: KVCacheDType, ratio: float, tmp_path: Path
) -> None:
    random_model(llama_config(head_dim=64)).save_pretrained(tmp_path)
    files = ModelFiles(tmp_path, (), "m")

    plain, weighed = (
        weigh_files(files, None, EngineConfig(max_model_len=32, kv_cache_dtype=each))
        for each in (KVCacheDType.AUTO, dtype)
    )

    layout = load_folder(tmp_path, torch.bfloat16, CpuAttention(), kv_dtype=KV_DTYPES[dtype.value]).cache_layout
    assert weighed.least_kv_bytes == layout.block_bytes(32)
    assert weighed.token_kv_bytes == plain.token_kv_bytes * ratio
