"""DeepSeek checkpoints as they are published, FP8 in blocks and an extra last layer; what a token costs the cache."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.attention.select import PREFERENCE, load_backend
from models.linear.storage import WeightOptions
from models.loading.load import build_decoder
from models.loading.open import open_model
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import cpu_compute, load_folder, random_model
from tests.helpers.paged import PagedRun, PagedSequence
from tests.models.families.deepseek_variants import deepseek_v3

BLOCK = 128
# Neither hidden size nor a row of the cache is a multiple of a block: its rows are moved over a block's border.
SIZES = {"hidden_size": 192, "kv_lora_rank": 128, "q_lora_rank": 144, "intermediate_size": 160}
PROMPT = torch.randint(128, (23,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A checkpoint, and the logits of what it holds, dequantized."""
    folder = tmp_path_factory.mktemp("deepseek")
    model = random_model(deepseek_v3(**SIZES, n_group=1, topk_group=1))
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    last = "model.layers.1."
    for name in [name for name in tensors if name.startswith(last)]:
        tensors[name.replace(last, "model.layers.2.")] = tensors[name].clone()
    tensors["model.layers.2.eh_proj.weight"] = torch.ones(192, 384)
    tensors["model.layers.2.shared_head.head.weight"] = torch.ones(128, 192)
    for name in [name for name in tensors if name.endswith("proj.weight") or "proj_with_mqa" in name]:
        scale_name = f"{name}_scale_inv"
        tensors[name], tensors[scale_name], values = in_blocks(tensors[name])
        replace_in(model.state_dict(), name, values)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    fields = json.loads((folder / "config.json").read_text())
    section = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
    }
    (folder / "config.json").write_text(json.dumps(fields | {"quantization_config": section}))
    with torch.inference_mode():
        return folder, model(torch.tensor([PROMPT])).logits[0]


def in_blocks(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, a scale for each block, and the numbers that they stand for."""
    rows, columns = matrix.shape
    padded = torch.nn.functional.pad(matrix.float(), (0, -columns % BLOCK, 0, -rows % BLOCK))
    blocks = padded.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
    scales = blocks.abs().amax((1, 3)) / 448
    spread = scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:rows, :columns]
    codes = (matrix / spread).to(torch.float8_e4m3fn)
    return codes, scales, codes.float() * spread


def replace_in(state: dict[str, torch.Tensor], name: str, values: torch.Tensor) -> None:
    """Put a checkpoint's matrix into the model, which has experts stacked, gate and up together."""
    if ".experts." not in name:
        if name in state:
            state[name].copy_(values)
        return
    block, _, rest = name.partition(".experts.")
    expert, projection, _ = rest.split(".")
    if f"{block}.experts.down_proj" not in state:
        return  # of the extra layer
    if projection == "down_proj":
        state[f"{block}.experts.down_proj"][int(expert)] = values
    else:
        half = slice(0, len(values)) if projection == "gate_proj" else slice(len(values), None)
        state[f"{block}.experts.gate_up_proj"][int(expert), half] = values


@pytest.mark.parametrize("path", PREFERENCE["cpu"])
@pytest.mark.parametrize(
    ("dtype", "keeps_quantized", "bound"),
    [(torch.float32, False, 1e-5), (torch.bfloat16, False, 0.03), (torch.bfloat16, True, 0.12)],
)
def test_fp8_in_blocks_with_an_extra_last_layer(
    shipped: tuple[Path, torch.Tensor], path: str, dtype: torch.dtype, keeps_quantized: bool, bound: float
) -> None:
    folder, expected = shipped
    opened, backend = open_model(ModelFiles(folder, (), "m")), load_backend(path)
    compute = cpu_compute(dtype, backend)
    decoder, _ = build_decoder(opened, compute, WeightOptions(keeps_quantized=keeps_quantized), lambda *_: None)

    [logits] = PagedRun(decoder).step([(PagedSequence(), PROMPT)])

    errors = (logits - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(errors.median()) < bound  # in a few rows rounding to FP8 decides between two experts


@pytest.mark.parametrize("path", PREFERENCE["cpu"])
def test_cache_holds_one_row_a_token_and_layer(tmp_path: Path, path: str) -> None:
    random_model(deepseek_v3()).save_pretrained(tmp_path)
    layout = load_folder(tmp_path, torch.bfloat16, load_backend(path)).cache_layout

    assert layout.block_bytes(16) == 2 * 16 * (32 + 16) * 2  # layers, tokens, latent + rotary part, bf16
