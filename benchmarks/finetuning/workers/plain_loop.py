"""`python -m benchmarks.finetuning.workers.plain_loop TASK.json`: the same step on transformers' bf16 model."""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from benchmarks.finetuning.workers.turns import take_turns


class _LoraLinear(nn.Module):
    """y = W x + 2 B A x, with the pair in fp32."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        delta = x.to(torch.float32) @ self.a.t() @ self.b.t() * 2.0
        y: torch.Tensor = self.base(x) + delta.to(x.dtype)
        return y


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(task["threads"])
    config = AutoConfig.from_pretrained(task["config"])
    peer: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    peer.requires_grad_(False)
    for module in list(peer.model.layers.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, _LoraLinear(child, task["rank"]))
    optimizer = torch.optim.AdamW([each for each in peer.parameters() if each.requires_grad], lr=1e-3)
    ids = torch.tensor(task["ids"])
    labels = ids.clone()
    labels[:, : task["first"]] = -100

    def step() -> None:
        optimizer.zero_grad()
        peer(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()

    take_turns(step)


if __name__ == "__main__":
    main()
