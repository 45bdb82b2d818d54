"""TrainingConfig: the options of `headrace finetune`. The command line imports this: no torch here."""

from dataclasses import dataclass
from functools import partial

from engine.command_io.finetuning.job import (
    Hyperparameters,
    Order,
    Pacing,
    ScaleRewards,
    Scaling,
    Schedule,
    TrainingMethod,
)
from engine.command_io.finetuning.method_fields import misplaced
from engine.config import option
from engine.errors import StartupError

_option = partial(option, group="Fine-tuning")
DEFAULT_LENGTH = 1024  # unless the model takes fewer


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """The options of a fine-tuning run. Raises StartupError for options that contradict each other."""

    out: str | None = _option(None, "Folder for the adapter; a job that was stopped resumes in the same folder.")
    method: TrainingMethod = _option(
        TrainingMethod.SUPERVISED,
        "supervised (chats, or prompts and completions), dpo (pairs of answers), pretraining (plain text), or "
        "reinforcement (prompts, with a --grader).",
    )
    grader: str | None = _option(
        None, "For reinforcement: JSON file of the grader that rewards answers.", metavar="FILE"
    )
    validation: str | None = _option(
        None, "File of the same form to measure the loss on before and during training.", metavar="FILE"
    )
    chat_template: str | None = _option(None, "Jinja chat template, or a file with one, instead of the model's.")
    start: str | None = _option(None, "Folder of an adapter to continue to train.", metavar="FOLDER")
    n_epochs: int | None = _option(
        None, "Times that each example is seen (default: by the number of examples).", minimum=1
    )
    batch_size: int | None = _option(None, "Examples in a step (default: by their number, at least 4).", minimum=1)
    learning_rate_multiplier: float | None = _option(
        None, "Factor of the learning rate that is chosen by method and number of steps.", minimum=0
    )
    beta: float | None = _option(None, "For dpo: how much a departure from the base costs (default: 0.5).", minimum=0)
    rpo_alpha: float | None = _option(
        None, "For dpo: how much the loss of the preferred answers alone counts (default: 1).", minimum=0
    )
    lora_rank: int | None = _option(None, "Rank of the adapter (default: 8; 64 for pretraining).", minimum=1)
    lora_alpha: float | None = _option(
        None, "The adapter's output is scaled by this over the rank (default: twice the rank)."
    )
    target_modules: tuple[str, ...] = _option(
        (), "Linear layers to train, such as q_proj (default: all but experts).", metavar="NAME"
    )
    max_length: int | None = _option(
        None,
        "Maximum tokens of an example; longer ones are cut, texts divided (default: the model's context, at most "
        f"{DEFAULT_LENGTH:,}).",
        minimum=8,
    )
    schedule: Schedule = _option(Schedule.LINEAR, "How the learning rate falls after its warm-up.")
    warmup_ratio: float = _option(0.05, "Share of the steps in which the learning rate rises.", minimum=0, maximum=1)
    weight_decay: float = _option(0.0, "AdamW's weight decay.", minimum=0)
    max_grad_norm: float = _option(1.0, "Norm that gradients are clipped to.", minimum=0)
    replay: float | None = _option(
        None,
        "Answers of the base's own in each step, relative to the number of examples, so that general answers stay "
        "(default: 0.5; 0.25 for pretraining).",
        minimum=0,
    )
    early_stopping: int | None = _option(
        None, "Stop after this many epochs without a lower validation loss, and keep the best.", minimum=1
    )
    order: Order = _option(Order.NONE, "Curriculum: none (random), file, length, or difficulty (the base's loss).")
    pacing: Pacing = _option(Pacing.NONE, "With an order: how fast the share of it grows that steps draw from.")
    group_size: int | None = _option(
        None, "For reinforcement: answers to each prompt of a step (default: 8).", minimum=2, maximum=128
    )
    max_completion_tokens: int | None = _option(
        None,
        "For reinforcement: maximum tokens of an answer (default: 256, at most half of the model's context).",
        minimum=1,
    )
    kl_weight: float | None = _option(None, "For reinforcement: how much the distance from the base costs.", minimum=0)
    scale_rewards: ScaleRewards | None = _option(
        None, "For reinforcement: whose standard deviation rewards are divided by: batch (default), group, or none."
    )
    eval_interval: int | None = _option(
        None, "For reinforcement: steps from one validation to the next (default: an epoch).", minimum=1
    )
    eval_samples: int | None = _option(
        None,
        "For reinforcement: answers to each prompt of the validation file (default: so that about 64 are graded).",
        minimum=1,
        maximum=128,
    )
    scaling: Scaling | None = _option(
        None,
        "Train also on halves and quarters of the file (data; also without a value), or with a half and a quarter "
        "of the rank or of the epochs; fit the held-out loss, and say what twice as much would bring. Without "
        "--validation, a tenth of the lines is held out.",
    )
    seed: int = _option(0, "Seed of the adapter's first values and of the order.", minimum=0)

    def __post_init__(self) -> None:
        if self.out is None:
            raise StartupError("--out is missing; name the folder for the adapter")
        if (self.grader is None) is (self.method is TrainingMethod.REINFORCEMENT):
            raise StartupError("--grader and --method reinforcement need each other; give both or neither")
        if self.scaling is not None and self.method is TrainingMethod.REINFORCEMENT:
            raise StartupError(
                "--scaling fits a held-out loss, and the method is reinforcement, which has none; leave it out"
            )
        has_held_out = self.validation is not None or self.scaling is not None
        for name, reason in misplaced(self.hyperparameters, self.method, has_validation=has_held_out):
            raise StartupError(f"--{name.replace('_', '-')} is {getattr(self, name)}; {reason}")

    @property
    def hyperparameters(self) -> Hyperparameters:
        given = {name: getattr(self, name) for name in Hyperparameters.__struct_fields__ if hasattr(self, name)}
        return Hyperparameters(**{**given, "target_modules": list(self.target_modules)})
