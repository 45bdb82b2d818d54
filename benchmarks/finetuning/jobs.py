"""Jobs of `headrace finetune` for measurements: they run like a user's, and then the adapter answers questions."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from engine.command_io.finetuning.job import FinetuningJob, JobFolder
from engine.protocol import TokenizerInfo
from models.kernels.cpu.library import set_num_threads
from models.loading.load import LoadOptions
from models.sources.resolve import resolve_model
from models.training.adapter_file import load_pairs
from models.training.generate import generate
from models.training.load import load_for_training
from models.training.lora import Lora, LoraShape
from models.weight_cache.cache import WeightCache
from server.config.server import ServerConfig
from server.finetuning.rendering import ModelTokens, Renderer
from server.text.chat_templates.processes import TemplateProcesses
from server.text.workers import TextWorkers
from server.text_model import build_text_model

ROOT = Path(__file__).parents[2]
_TOGETHER = 50  # questions


def job_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser of common options. description: a module's docstring; its first line is used."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.{program}", description=(description or "").partition("\n")[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the jobs and their adapters")
    parser.add_argument("--seeds", type=int, default=1, help="jobs, each with another seed (default: 1)")
    parser.add_argument("--verbose", action="store_true", help="print all answers")
    return parser


def split_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments at `--`; options of `headrace finetune` follow after it."""
    place = argv.index("--") if "--" in argv else len(argv)
    return list(argv[:place]), list(argv[place + 1 :])


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def finetune(model: str, train: Path, out: Path, *options: str) -> JobFolder:
    """Train to the end, with progress on the terminal. Exits on failure."""
    command = [sys.executable, "-m", "server.cli", "finetune", model, str(train), "--out", str(out), *options]
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode
    if code:
        sys.exit(code)
    return JobFolder(out / "job")


def finetune_seeds(model: str, train: Path, out: Path, num_seeds: int, *options: str) -> list[JobFolder]:
    """Run `finetune` once with each seed from 0 on, in separate folders."""
    seeds = map(str, range(num_seeds))
    return [finetune(model, train, out / f"seed-{seed}", "--seed", seed, *options) for seed in seeds]


def columns(num_seeds: int) -> list[str]:
    """Return the heads of a table of answers from `Asker.ask`."""
    return ["", "base", "untrained adapter", *(f"adapter, seed {seed}" for seed in range(num_seeds))]


class Asker:
    """A model and the adapters that jobs have trained for it, which answer greedily in the chat template."""

    def __init__(self, model: str, jobs: Sequence[JobFolder]) -> None:
        """jobs: at least one; their adapters have the same shape."""
        set_num_threads(1)  # steps of few rows: several threads would wait for each other
        files = resolve_model(model, None, lambda *_: None)
        loaded = load_for_training(files, LoadOptions(weight_cache=WeightCache()), lambda *_: None)
        self._decoder = loaded.decoder
        self._decoder.serve_context(2048)
        self._jobs, first = jobs, jobs[0]
        config = json.loads((_adapter(first) / "adapter_config.json").read_text())
        self._lora = Lora(self._decoder, loaded.names, LoraShape(config["r"], config["lora_alpha"]), seed=0)
        self._untrained = self._lora.values.clone()
        info = msgspec.msgpack.decode((first.path / "tokenizer.msgpack").read_bytes(), type=TokenizerInfo)
        self._end_ids = msgspec.json.decode(first.job.read_bytes(), type=FinetuningJob).end_ids
        self._templates, self._workers = TemplateProcesses(), TextWorkers()
        text_model = build_text_model(info, ServerConfig(), self._workers, self._templates)
        self._renderer = Renderer(ModelTokens(text_model), max_length=1024)
        self._tokenizer = Tokenizer.from_file(str(first.path / "tokenizer.json"))

    def ask(self, questions: Sequence[str], *, is_shown: bool) -> list[list[str]]:
        """Return the answers of the base, of an untrained adapter, and of each job's adapter.

        The untrained adapter's answers differ from the base's only by rounding. is_shown: whether they are printed.
        """
        self._lora.is_adapted = False
        answers = [self._answers(questions)]
        self._lora.is_adapted = True
        self._lora.values.copy_(self._untrained)
        answers.append(self._answers(questions))
        for job in self._jobs:
            load_pairs(_adapter(job), self._lora)
            answers.append(self._answers(questions))
        if is_shown:
            for question, *given in zip(questions, *answers, strict=True):
                sys.stdout.write("\n  ".join([question, *given]) + "\n")
        return answers

    def _answers(self, questions: Sequence[str], max_tokens: int = 32) -> list[str]:
        prompts = [self._renderer.question(question).ids for question in questions]
        answers: list[list[int]] = []
        for start in range(0, len(prompts), _TOGETHER):
            answers += generate(self._decoder, prompts[start : start + _TOGETHER], self._end_ids, max_tokens)
        return [" ".join(self._tokenizer.decode(answer).split()) for answer in answers]

    def close(self) -> None:
        self._templates.close()
        self._workers.close()


def _adapter(job: JobFolder) -> Path:
    return job.path.parent
