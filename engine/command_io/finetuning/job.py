"""FinetuningJob: what a trainer is asked to do, as job.json; JobFolder: where everything of a job is."""

import enum
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.command_io.finetuning.thoughts import ThoughtMarks
from engine.config import EngineConfig


class TrainingMethod(enum.StrEnum):
    SUPERVISED = "supervised"
    DPO = "dpo"  # direct preference optimization (Rafailov et al. 2023)
    PRETRAINING = "pretraining"  # continued, on plain text
    REINFORCEMENT = "reinforcement"  # answers of the model's own, rewarded by a grader


class Order(enum.StrEnum):
    """Of a curriculum: which examples come first."""

    NONE = "none"  # random, anew each epoch
    FILE = "file"
    LENGTH = "length"  # short ones first
    DIFFICULTY = "difficulty"  # those first whose answers the base finds likely


class Pacing(enum.StrEnum):
    """Which share of the ordered examples a step draws from, growing to all of them at half of the training
    (competence-based curriculum learning: Platanios et al. 2019)."""

    NONE = "none"  # all, one after the other, in each epoch
    LINEAR = "linear"
    SQRT = "sqrt"


class ScaleRewards(enum.StrEnum):
    """What an advantage of reinforcement learning is divided by: the standard deviation of rewards."""

    GROUP = "group"  # of the answers to the same prompt
    BATCH = "batch"  # of all answers of a step
    NONE = "none"


class Schedule(enum.StrEnum):
    """Of the learning rate after its warm-up."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


class Hyperparameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """None: chosen from the data, as `auto` does. The first four are those of OpenAI's API, for each method that has
    them."""

    n_epochs: int | None = None
    batch_size: int | None = None  # examples, or pairs, that one update of the weights is computed from
    learning_rate_multiplier: float | None = None  # of what would be chosen
    beta: float | None = None  # DPO's: how much a departure from the base costs
    rpo_alpha: float | None = None  # DPO's: how much the loss of preferred answers by themselves counts
    lora_rank: int | None = None
    lora_alpha: float | None = None
    target_modules: list[str] = []
    max_length: int | None = None  # tokens of an example
    warmup_ratio: float = 0.05  # of all steps
    schedule: Schedule = Schedule.LINEAR
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    replay: float | None = None  # answers of the base's own in a step, relative to the file's examples
    early_stopping: int | None = None  # epochs without a better validation loss
    order: Order = Order.NONE
    pacing: Pacing = Pacing.NONE
    # Of reinforcement; the first three are those of OpenAI's API.
    compute_multiplier: float | None = None  # of the answers to each prompt
    eval_interval: int | None = None  # steps from one validation to the next
    eval_samples: int | None = None  # answers to each prompt of the validation file
    group_size: int | None = None  # answers to each prompt
    max_completion_tokens: int | None = None  # of an answer
    kl_weight: float | None = None  # how much the distance from the base model costs
    scale_rewards: ScaleRewards | None = None


class FinetuningJob(msgspec.Struct, frozen=True, kw_only=True):
    """`engine`: the options that the model is served with. start: the folder of an adapter to go on with, relative to
    the job's folder if it is within that. grader: of reinforcement, as the client wrote it, and as `parse_grader`
    takes it. thought: of reinforcement, the marks of a model that thinks."""

    engine: EngineConfig
    method: TrainingMethod
    hyperparameters: Hyperparameters
    seed: int = 0
    start: str | None = None
    end_ids: list[int] = []  # tokens that end an answer
    grader: dict[str, Any] | None = None
    thought: ThoughtMarks | None = None


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Everything of a job but its adapters. A job that is begun again in the same folder goes on, also if that was
    moved meanwhile: what is in it names no folder above it."""

    path: Path

    @property
    def out(self) -> Path:
        """The folder for the adapter, which the job's folder is in."""
        return self.path.parent

    @property
    def job(self) -> Path:
        return self.path / "job.json"

    @property
    def train(self) -> Path:
        """TrainingItems, a line each; of reinforcement, GradedPrompts."""
        return self.path / "train.jsonl"

    @property
    def valid(self) -> Path:
        """The same, to validate on; may be missing."""
        return self.path / "valid.jsonl"

    @property
    def prompts(self) -> Path:
        """Prompts of everyday questions, whose answers by the base are replayed, as Passages; may be missing."""
        return self.path / "prompts.jsonl"

    @property
    def samples(self) -> Path:
        """Prompts to answer after each epoch, as Passages; may be missing."""
        return self.path / "samples.jsonl"

    @property
    def replay(self) -> Path:
        """What the base answered to `prompts`; written by the trainer."""
        return self.path / "replay.json"

    @property
    def events(self) -> Path:
        """JSON lines, appended."""
        return self.path / "events.jsonl"

    @property
    def results(self) -> Path:
        return self.path / "results.csv"

    def plot(self, name: str) -> Path:
        """The curve of that name (curve.py) as a picture, where matplotlib is installed."""
        return self.path / f"{name}.png"

    @property
    def lock(self) -> Path:
        """An empty file, locked by the command that works in the folder."""
        return self.path / "lock"

    @property
    def questions(self) -> Path:
        """What the trainer asks models that grade, while it waits for their answers."""
        return self.path / "questions.json"

    @property
    def answers(self) -> Path:
        """What the models answered."""
        return self.path / "answers.json"

    @property
    def state(self) -> Path:
        """What a job that goes on begins with."""
        return self.path / "state.safetensors"


def write_atomically(path: Path, content: bytes) -> None:
    """The file has the old content or the new, also after a loss of power. Raises OSError."""
    write_parts_atomically(path, [content])


def write_parts_atomically(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """As write_atomically; the content is the parts, one after the other. Raises OSError, and what `parts` raises."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
