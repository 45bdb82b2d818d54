"""Random adapters of the demo model, strong enough to change what it says."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

_NUM_LAYERS, _HIDDEN, _KV, _INNER = 30, 576, 192, 1536
_RANK = 4


def save_demo_adapter(folder: Path, seed: int) -> Path:
    """In PEFT's format, as an adapter that was trained would be."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"self_attn.v_proj": (_KV, _HIDDEN), "mlp.down_proj": (_HIDDEN, _INNER)}
    tensors = {}
    for layer in range(_NUM_LAYERS):
        for module, (rows, columns) in shapes.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(_RANK, columns, generator=generator) * columns**-0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(rows, _RANK, generator=generator) * 0.2
    config = {"peft_type": "LORA", "r": _RANK, "lora_alpha": 2.0 * _RANK, "target_modules": ["v_proj", "down_proj"]}
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
