"""`python -m benchmarks.finetuning.workers.ours TASK.json`: headrace's step on a GGUF file."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.finetuning.workers.turns import take_turns
from engine.child_processes.allocator import retain_freed_memory
from engine.command_io.finetuning.items import Passage, TrainingItem
from engine.finetuning.loss.objective import TokenObjective, add_gradients
from models.kernels.cpu.library import set_num_threads
from models.loading.load import LoadOptions
from models.sources.resolve import resolve_model
from models.training.load import load_for_training
from models.training.lora import Lora, LoraShape
from models.weight_cache.cache import WeightCache


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    retain_freed_memory()
    set_num_threads(task["threads"])
    files = resolve_model(task["model"], None, lambda *_: None)
    loaded = load_for_training(files, LoadOptions(weight_cache=WeightCache()), lambda *_: None)
    loaded.decoder.serve_context(2048)
    lora = Lora(loaded.decoder, loaded.names, LoraShape(task["rank"], 2.0 * task["rank"]), seed=0)
    objective = TokenObjective(loaded.decoder)
    parameter = nn.Parameter(lora.values)
    parameter.grad = lora.gradients
    optimizer = torch.optim.AdamW([parameter], lr=1e-3)
    items = [TrainingItem([Passage(row, [(task["first"], len(row))])]) for row in task["ids"]]

    def step() -> None:
        add_gradients(objective, items, loaded.decoder, lora)
        optimizer.step()

    take_turns(step)


if __name__ == "__main__":
    main()
