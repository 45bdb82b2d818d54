"""FinetuningJob: a training request, stored as job.json. JobFolder: the paths of a job's files."""

import contextlib
import enum
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.command_io.finetuning.data_preparation import PreparationOptions
from engine.command_io.finetuning.thoughts import ThoughtMarks
from engine.config import EngineConfig
from engine.errors import StartupError


class TrainingMethod(enum.StrEnum):
    SUPERVISED = "supervised"
    DPO = "dpo"  # direct preference optimization (Rafailov et al. 2023)
    PRETRAINING = "pretraining"  # continued, on plain text
    REINFORCEMENT = "reinforcement"  # the model's own answers, rewarded by a grader


class Order(enum.StrEnum):
    """The order of examples in a curriculum."""

    NONE = "none"  # random, anew each epoch
    FILE = "file"
    LENGTH = "length"  # short examples first
    DIFFICULTY = "difficulty"  # first the examples whose answers are likely for the base


class Pacing(enum.StrEnum):
    """Growth of the share of the ordered examples that steps draw from; it reaches all examples halfway through
    training (competence-based curriculum learning: Platanios et al. 2019)."""

    NONE = "none"  # all, one after the other, in each epoch
    LINEAR = "linear"
    SQRT = "sqrt"


class ScaleRewards(enum.StrEnum):
    """The set of rewards whose standard deviation divides the advantages in reinforcement learning."""

    GROUP = "group"  # rewards of the answers to the same prompt
    BATCH = "batch"  # rewards of all answers of a step
    NONE = "none"


class Scaling(enum.StrEnum):
    """The size of a job that --scaling varies, to fit its effect on the held-out loss."""

    DATA = "data"  # examples
    RANK = "rank"
    EPOCHS = "epochs"


class Schedule(enum.StrEnum):
    """The learning-rate schedule after the warm-up."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


class Hyperparameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters as the user gives them; None is chosen from the data (auto.py). n_epochs, batch_size,
    learning_rate_multiplier and beta are OpenAI's."""

    n_epochs: int | None = None
    batch_size: int | None = None  # examples, or preference pairs, per update of the weights
    learning_rate_multiplier: float | None = None  # factor on the learning rate that would be chosen
    beta: float | None = None  # DPO: how much a departure from the base model costs
    rpo_alpha: float | None = None  # DPO: weight of the negative log probability of preferred answers
    lora_rank: int | None = None
    lora_alpha: float | None = None
    target_modules: list[str] = []
    max_length: int | None = None  # most tokens of an example
    warmup_ratio: float = 0.05  # share of all steps
    schedule: Schedule = Schedule.LINEAR
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    replay: float | None = None  # replayed answers of the base model per example of the file
    early_stopping: int | None = None  # epochs without a better validation loss
    order: Order = Order.NONE
    pacing: Pacing = Pacing.NONE
    # Of reinforcement; the first three are OpenAI's.
    compute_multiplier: float | None = None  # factor on the number of answers to each prompt
    eval_interval: int | None = None  # steps from one validation to the next
    eval_samples: int | None = None  # answers to each prompt of the validation file
    group_size: int | None = None  # answers to each prompt
    max_completion_tokens: int | None = None  # most tokens of an answer
    kl_weight: float | None = None  # weight of the KL divergence from the base model
    scale_rewards: ScaleRewards | None = None
    data_preparation: PreparationOptions | None = None  # before training, of the training file


class Probe(msgspec.Struct, frozen=True):
    """Settings of a job that is trained only for its held-out loss, and compared with another job: the learning rate is
    that job's, the file's questions are not asked, and the adapter is not reported: its folder does not stay."""

    learning_rate: float


class FinetuningJob(msgspec.Struct, frozen=True, kw_only=True):
    """A fine-tuning job to run. engine: the options that the model is served with. start: folder of an adapter to
    continue to train, relative to the job's folder if within it. grader: the reward function of reinforcement
    learning, as the client wrote it. thought: marks around thoughts, for reinforcement learning of reasoning models."""

    engine: EngineConfig
    method: TrainingMethod
    hyperparameters: Hyperparameters
    seed: int = 0
    start: str | None = None
    end_ids: list[int] = []  # tokens that end an answer
    grader: dict[str, Any] | None = None
    thought: ThoughtMarks | None = None
    probe: Probe | None = None


class JobFolder:
    """The files of a job, except its adapters. A job that is started again in the same folder continues, even if the
    folder was moved: no file in it refers to a folder above."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.out = path.parent  # for the adapter
        self.lock = path / "lock"  # empty, and locked by the command that works in the folder
        # Written before the trainer starts.
        self.tokenizer_info = path / "tokenizer.msgpack"  # a TokenizerInfo
        self.context = path / "context.json"  # the number of tokens that the model takes; may be missing
        self.capabilities = path / "capabilities.json"  # of the model, as its card names them; may be missing
        self.tokenizer = path / "tokenizer.json"
        self.train = path / "train.jsonl"  # TrainingItems, one a line; for reinforcement, GradedPrompts
        self.valid = path / "valid.jsonl"  # in the form of `train`; may be missing
        self.samples = path / "samples.jsonl"  # SamplePrompts, answered after each epoch; may be missing
        self.prompts = path / "prompts.jsonl"  # everyday questions to replay, as Passages; may be missing
        self.report = path / "report.json"
        self.prepared = path / "prepared.jsonl"  # the training file after its data_preparation; may be missing
        self.answered = path / "answered.jsonl"  # values of lines by models, for that; may be missing
        self.data_report = path / "data_report.json"  # of that preparation; may be missing
        self.job = path / "job.json"  # the FinetuningJob, written last
        # Written while the job is trained.
        self.replay = path / "replay.json"  # the base's answers to `prompts`
        self.events = path / "events.jsonl"  # JobEvents, appended
        self.origin = path / "origin.json"  # the options and examples that the state is trained from
        self.results = path / "results.csv"
        self.state = path / "state.safetensors"  # from which a job continues
        self.questions = path / "questions.json"  # to served models, while the job's process waits for their answers
        self.answers = path / "answers.json"  # of the served models

    def plot(self, name: str) -> Path:
        """Return the path of the plot of a curve. name: the quantity that the curve shows, such as "loss"."""
        return self.path / f"{name}.svg"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically: even after a power failure, it has the old content or the new. Raises OSError."""
    write_parts_atomically(path, [content])


def write_parts_atomically(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file atomically from its parts, one after the other. Raises OSError, and errors of `parts`."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


@contextlib.contextmanager
def locked(folder: JobFolder) -> Iterator[None]:
    """Lock the folder, which must exist, for this process.

    The kernel releases the lock however the process ends. The empty lock file stays: if it were removed, it could be
    locked twice. Raises StartupError if another process holds the lock, and OSError.
    """
    with folder.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(
                f"another process is training in {folder.path}; wait until it has ended, or give another --out"
            ) from None
        yield
