"""Random adapters in PEFT's format, written by hand, and a model of transformers that computes with one."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from models.adapters.read import read_adapter
from models.decoder import Decoder
from models.linear.adapters.adapter import Adapter
from tests.helpers.loaded import as_loaded

# Routers, experts, what makes keys and values from DeepSeek's latents, and what sees images: not supported, or not run.
# dt_proj: transformers multiplies by its weight without calling it.
_LEFT_OUT = re.compile(
    r"vision|visual|multi_modal|mm_projector|router|experts|(mlp|block_sparse_moe|feed_forward|_expert)(\.|_)gate(\.wg)?$|kv_b_proj|dt_proj"
)
_POSITIONS = re.compile(r"wpe|embed_positions|vision|visual|per_layer")  # and inputs of layers


@dataclass
class RandomAdapter:
    """config: of adapter_config.json. tensors: by module and part, ("model.layers.0.mlp.up_proj", "lora_A.weight")."""

    config: dict[str, object]
    tensors: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        alpha, rank = self.config["lora_alpha"], self.config["r"]
        assert isinstance(alpha, float)
        assert isinstance(rank, int)
        return alpha / rank

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(self.config))
        tensors = {f"base_model.model.{module}.{part}": tensor for (module, part), tensor in self.tensors.items()}
        save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    def loaded(self, folder: Path, decoder: Decoder, architecture: str) -> Adapter:
        return read_adapter(self.save(folder), as_loaded(decoder, architecture))


def random_adapter(
    model: PreTrainedModel, *, rank: int = 3, alpha: float = 6.0, seed: int = 0, only: str = "", **fields: object
) -> RandomAdapter:
    """Pairs for all layers whose names match `only`, large enough to change the logits visibly."""
    adapter = RandomAdapter({"peft_type": "LORA", "r": rank, "lora_alpha": alpha, **fields})
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.5 * shape[1] ** -0.5

    for name, module in model.named_modules():
        if not re.search(only, name):
            continue
        if isinstance(module, nn.Linear | Conv1D) and not _LEFT_OUT.search(name):
            num_outputs, num_inputs = (module.nf, module.nx) if isinstance(module, Conv1D) else module.weight.shape
            adapter.tensors[name, "lora_A.weight"] = random(rank, num_inputs)
            adapter.tensors[name, "lora_B.weight"] = random(num_outputs, rank)
        elif isinstance(module, nn.Embedding) and not _POSITIONS.search(name):
            adapter.tensors[name, "lora_embedding_A"] = random(rank, module.num_embeddings) * module.num_embeddings**0.5
            adapter.tensors[name, "lora_embedding_B"] = random(module.embedding_dim, rank)
    return adapter


def random_dora(model: PreTrainedModel, *, rank: int, seed: int) -> RandomAdapter:
    """With DoRA on all layers of attention and feed-forward."""
    adapter = random_adapter(model, rank=rank, seed=seed, only="_proj$", use_dora=True)
    generator = torch.Generator().manual_seed(seed + 1)
    for (module, part), tensor in list(adapter.tensors.items()):
        if part == "lora_B.weight":
            lengths = 1 + 0.3 * torch.randn(len(tensor), generator=generator)
            adapter.tensors[module, "lora_magnitude_vector"] = lengths
    return adapter


@contextlib.contextmanager
def adapted(model: PreTrainedModel, adapter: RandomAdapter) -> Iterator[None]:
    """While the context lasts, the model's modules add the adapter's pairs."""
    with contextlib.ExitStack() as stack:
        for name in {module for module, _ in adapter.tensors}:
            parts = {part: tensor for (module, part), tensor in adapter.tensors.items() if module == name}
            handle = model.get_submodule(name).register_forward_hook(_adding(parts, adapter.scale))
            stack.callback(handle.remove)
        yield


def _adding(parts: Mapping[str, torch.Tensor], scale: float) -> Callable[..., torch.Tensor]:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if isinstance(module, nn.Embedding):
            rows = F.embedding(inputs[0], parts["lora_embedding_A"].t()) @ parts["lora_embedding_B"].t()
            return output + rows * scale * getattr(module, "embed_scale", 1.0)
        return output + F.linear(F.linear(inputs[0], parts["lora_A.weight"]), parts["lora_B.weight"]) * scale

    return hook
