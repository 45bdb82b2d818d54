"""CPU seconds of a step of LoRA on headrace's decoder beside one on transformers' bf16 model, in turns.

    .venv/bin/python -m benchmarks.finetune model.gguf --steps 8

Both have rank 8 on all linear layers of all layers, the same batch of random tokens, and a loss on the second half of
each sequence. transformers' model has the same shape and random weights: a step takes as long with any.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from benchmarks.results import machine_name
from benchmarks.tables import markdown
from engine.finetune.objective import TokenObjective, add_gradients
from engine.jobs.finetune.items import Passage, TrainingItem
from models.checkpoints.gguf.checkpoint import GGUFCheckpoint
from models.families.gguf_config import gguf_config
from models.kernels.cpu.library import set_num_threads
from models.loading.load import LoadOptions
from models.sources.resolve import resolve_model
from models.system.cores import usable_cores
from models.training.load import load_for_training
from models.training.lora import Lora, LoraShape
from models.weight_cache.cache import WeightCache

_RANK = 8
_TYPES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.finetune", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", metavar="MODEL", help="a GGUF file of a Llama, Qwen 2 or Qwen 3")
    parser.add_argument("--steps", type=int, default=8, help="of each, after one that is not counted (default: 8)")
    parser.add_argument("--batch-size", type=int, default=4, help="sequences (default: 4)")
    parser.add_argument("--length", type=int, default=51, help="tokens of a sequence (default: 51)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="(default: the usable cores)")
    options = parser.parse_args()
    set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 5000, (options.batch_size, options.length), generator=generator)
    middle = options.length // 2
    items = [TrainingItem([Passage(row, [(middle, options.length)])]) for row in ids.tolist()]
    contenders = {
        "headrace, weights kept dense": _ours(options.model, items, keeps_dense=True),
        "headrace": _ours(options.model, items, keeps_dense=False),
        "transformers, bf16": _transformers(options.model, ids, middle),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(options.steps + 1):
        for name, step in contenders.items():
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            step()
            if turn:
                times[name].append((time.process_time() - cpu_s, time.perf_counter() - wall_s))
    cpu = {name: statistics.median(cpu_s for cpu_s, _ in each) for name, each in times.items()}
    wall = {name: statistics.median(wall_s for _, wall_s in each) for name, each in times.items()}
    base = cpu["transformers, bf16"]
    sys.stdout.write(f"{machine_name()}, {options.threads} threads, {ids.numel()} tokens a step\n")
    rows = [(name, f"{cpu[name]:.2f}", f"{wall[name]:.2f}", f"{cpu[name] / base:.2f}") for name in contenders]
    sys.stdout.write(markdown(("", "CPU s a step", "wall s a step", "CPU, relative"), rows) + "\n")
    return 0


def _ours(model: str, items: list[TrainingItem], *, keeps_dense: bool) -> Callable[[], object]:
    files = resolve_model(model, None, lambda *_: None)
    loaded = load_for_training(files, LoadOptions(weight_cache=WeightCache()), lambda *_: None)
    loaded.decoder.serve_context(2048)
    lora = Lora(loaded.decoder, loaded.names, LoraShape(_RANK, 2.0 * _RANK), seed=0)
    for weight in lora.weights:
        weight.keeps_dense = keeps_dense
    objective = TokenObjective(loaded.decoder)
    optimizer = torch.optim.AdamW([nn.Parameter(lora.values)], lr=1e-3)
    optimizer.param_groups[0]["params"][0].grad = lora.gradients

    def step() -> None:
        add_gradients(objective, items, lora)
        optimizer.step()

    return step


class _LoraLinear(nn.Module):
    """y = W x + 2 B A x, with the pair in fp32."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(_RANK, base.in_features) * base.in_features**-0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, _RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        delta = x.to(torch.float32) @ self.a.t() @ self.b.t() * 2.0
        y: torch.Tensor = self.base(x) + delta.to(x.dtype)
        return y


def _transformers(model: str, ids: torch.Tensor, middle: int) -> Callable[[], object]:
    config = gguf_config(GGUFCheckpoint((Path(model),)))
    fields = {name: value for name, value in config.fields.items() if name not in ("architectures", "model_type")}
    made = AutoConfig.for_model(_TYPES[config.architecture()], **fields)
    made._attn_implementation = "sdpa"
    peer: PreTrainedModel = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16).requires_grad_(False)
    for module in list(peer.model.layers.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, _LoraLinear(child))
    pairs = [parameter for parameter in peer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(pairs, lr=1e-3)
    labels = ids.clone()
    labels[:, :middle] = -100

    def step() -> None:
        optimizer.zero_grad()
        peer(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    raise SystemExit(main())
