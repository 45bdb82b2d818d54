"""Fine-tuning jobs on a tiny model, run in this process."""

import dataclasses
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file

from engine.command_io.finetuning.events import parse_events
from engine.command_io.finetuning.items import Passage, SamplePrompt, TrainingItem, write_rows
from engine.command_io.finetuning.job import FinetuningJob, Hyperparameters, JobFolder, TrainingMethod
from engine.config import DType, EngineConfig
from engine.finetuning.run import train
from tests.helpers.checkpoints import VOCAB_SIZE

QUICK = Hyperparameters(n_epochs=3, batch_size=4, lora_rank=4)
PROMPTS = [Passage([5 + number, 6, 7]) for number in range(8)]
THOROUGH = Hyperparameters(n_epochs=8, batch_size=4, lora_rank=4, learning_rate_multiplier=50.0)


@dataclasses.dataclass
class Job:
    """A fine-tuning job in a folder, and the folder of its results."""

    folder: JobFolder
    out: Path

    def events(self, kind: str = "message") -> list[str]:
        return [event.message for event in parse_events(self.folder.events.read_bytes()) if event.kind == kind]

    def adapter(self) -> dict[str, torch.Tensor]:
        return load_file(self.out / "adapter_model.safetensors")


def training_item(seed: int, line: int = 0) -> TrainingItem:
    """An answer of three tokens that follow from the question's first."""
    generator = torch.Generator().manual_seed(seed)
    question = torch.randint(3, VOCAB_SIZE, (6,), generator=generator).tolist()
    return TrainingItem([Passage([*question, 7, 8, 9], [(6, 9)])], line)


def preference_pair(seed: int) -> TrainingItem:
    """Two answers to one question; the first is preferred."""
    question = training_item(seed).passages[0].ids[:6]
    return TrainingItem([Passage([*question, 7, 8], [(6, 8)]), Passage([*question, 9, 10, 11], [(6, 9)])])


def finetuning_job(
    model: Path,
    where: Path,
    hyperparameters: Hyperparameters = QUICK,
    method: TrainingMethod = TrainingMethod.SUPERVISED,
) -> Job:
    folder = JobFolder(where / "job")
    folder.path.mkdir(parents=True)
    engine = EngineConfig(model=str(model), dtype=DType.FLOAT32, weight_cache=False, threads=1)
    made = preference_pair if method is TrainingMethod.DPO else training_item
    write_rows(folder.train, [made(seed) for seed in range(12)])
    write_rows(folder.valid, [made(seed) for seed in range(100, 104)])
    write_rows(folder.samples, [SamplePrompt(training_item(100).passages[0].ids[:6], "Why?")])
    job = FinetuningJob(engine=engine, method=method, hyperparameters=hyperparameters, seed=3, end_ids=[9])
    folder.job.write_bytes(msgspec.json.encode(job))
    return Job(folder, where)


def run_job(job: Job) -> None:
    train(job.folder, lambda *_: None)
