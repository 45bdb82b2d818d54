"""Time and memory of a LoRA step: headrace, a plain loop over transformers' bf16 model, and trl, in turns.

    .venv/bin/python -m benchmarks.finetuning.steps model.gguf --steps 8 --rival-python trl-venv/bin/python

All have rank 8 on all linear layers of all layers, the same batch of random tokens, and a loss on the second half of
each sequence; each has its own process, and waits while another makes its step. transformers' model has the same shape
and random weights, which do not change the time. --rival-python names a Python that has trl and peft.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from benchmarks.results import machine_name
from benchmarks.tables import markdown
from engine.child_processes.environment import compute_environment
from models.checkpoints.gguf.checkpoint import GGUFCheckpoint
from models.families.gguf_config import gguf_config
from models.system.cores import usable_cores

_RANK = 8
_TYPES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
_WORKERS = Path(__file__).parent / "workers"
_BASE = "a loop over transformers' model, bf16"


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.finetuning.steps", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", metavar="MODEL", help="a GGUF file of a Llama, Qwen 2 or Qwen 3")
    parser.add_argument("--steps", type=int, default=8, help="of each, after one that is not counted (default: 8)")
    parser.add_argument("--batch-size", type=int, default=4, help="sequences (default: 4)")
    parser.add_argument("--length", type=int, default=51, help="tokens of a sequence (default: 51)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="(default: the usable cores)")
    parser.add_argument("--rival-python", metavar="FILE", help="a Python with trl and peft")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 5000, (options.batch_size, options.length), generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        _config(options.model).save_pretrained(folder)
        task = {"model": options.model, "config": folder, "ids": ids.tolist(), "first": options.length // 2}
        path = Path(folder) / "task.json"
        path.write_text(json.dumps({**task, "rank": _RANK, "threads": options.threads}))
        ours = [sys.executable, "-m", "benchmarks.finetuning.workers.ours", str(path)]
        commands = {
            "headrace": ours,
            _BASE: [sys.executable, "-m", "benchmarks.finetuning.workers.plain_loop", str(path)],
        }
        if options.rival_python is not None:
            commands["trl's SFTTrainer, bf16"] = [options.rival_python, str(_WORKERS / "trl_trainer.py"), str(path)]
        contenders = [
            _Contender(name, command, compute_environment() if command[: len(ours)] == ours else dict(os.environ))
            for name, command in commands.items()
        ]
        try:
            for turn in range(options.steps + 1):
                for contender in contenders:
                    contender.step(is_counted=turn > 0)
        finally:
            for contender in contenders:
                contender.close()
    base = next(contender.median("wall_s") for contender in contenders if contender.name == _BASE)
    sys.stdout.write(f"{machine_name()}, {options.threads} threads, {ids.numel()} tokens a step\n")
    rows = [
        (
            each.name,
            f"{each.median('wall_s'):.2f}",
            f"{each.median('wall_s') / base:.2f}",
            f"{each.median('cpu_s'):.2f}",
            f"{each.steps[-1]['peak_mb']:,.0f}",
        )
        for each in contenders
    ]
    sys.stdout.write(markdown(("", "wall s a step", "relative", "CPU s a step", "peak memory, MB"), rows) + "\n")
    return 0


def _config(model: str) -> Any:
    """Return transformers' configuration of the same shape."""
    config = gguf_config(GGUFCheckpoint((Path(model),)))
    fields = {name: value for name, value in config.fields.items() if name not in ("architectures", "model_type")}
    return AutoConfig.for_model(_TYPES[config.architecture()], **fields)


@dataclass(slots=True)
class _Contender:
    """A process that makes a step on request, and reports time and memory."""

    name: str
    command: list[str]
    environment: dict[str, str]  # headrace has the trainer's, the others a user's
    steps: list[dict[str, float]] = field(default_factory=list)
    _process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        environment = {**self.environment, "PYTHONPATH": str(Path(__file__).parents[2])}
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def step(self, *, is_counted: bool) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            sys.exit(f"{self.name} has ended: {self.command}")
        if is_counted:
            self.steps.append(json.loads(answer))

    def median(self, name: str) -> float:
        return statistics.median(step[name] for step in self.steps)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
