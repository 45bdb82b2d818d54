"""The report of a TrainingPlan: tokens, memory, time, what the adapter can hold, and laws of pre-training."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.command_io.finetuning.events import parse_events
from engine.command_io.finetuning.job import FinetuningJob, JobFolder
from engine.command_io.finetuning.plan import TrainingPlan
from engine.errors import OptionError
from engine.wording import counted, duration, gib
from server.data.report import TrainingTime

_OPERATIONS = 4  # for each weight and token: forward and the gradient of the input; frozen weights need no other
_FULL_OPERATIONS = 6  # when all parameters are trained
# Operations in a second of CPU time, on Zen 4: SmolLM2 135M and Qwen2.5-Coder 1.5B (docs/performance.md, Fine-tuning).
_SLOW, _FAST = 80e9, 160e9
# Rules of thumb: a parameter stores two bits (Allen-Zhu and Li 2024, arXiv 2404.05405); a learned token is about one.
_BITS_OF_VALUE, _BITS_OF_TOKEN = 2, 1


@dataclass(frozen=True, slots=True)
class PretrainingLaw:
    """A published fit of the loss of models that are trained from nothing on one pass of mixed text, by parameters N
    and tokens D: L(N, D) = E + A / N^a + B / D^b. offset: E, in nats per token. of_parameters, of_tokens: A and B."""

    name: str
    offset: float
    of_parameters: float
    of_tokens: float
    parameter_exponent: float
    token_exponent: float

    def loss(self, num_parameters: float, num_tokens: float) -> float:
        """Return the expected loss after training on that many tokens."""
        return (
            self.offset
            + self.of_parameters / num_parameters**self.parameter_exponent
            + self.of_tokens / num_tokens**self.token_exponent
        )

    def optimal_tokens(self, num_parameters: float) -> float:
        """Return the tokens for which no other number of parameters has a lower loss at the same compute."""
        marginal = self.parameter_exponent * self.of_parameters / num_parameters**self.parameter_exponent
        return float((self.token_exponent * self.of_tokens / marginal) ** (1 / self.token_exponent))


# Hoffmann et al. 2022 (arXiv 2203.15556), approach 3; and the refit to the points of its figure by Besiroglu et al.
# 2024 (arXiv 2404.10102).
PRETRAINING_LAWS = (
    PretrainingLaw("Hoffmann et al. 2022", 1.69, 406.4, 410.7, 0.34, 0.28),
    PretrainingLaw("Besiroglu et al. 2024", 1.8172, 482.01, 2085.43, 0.3478, 0.3658),
)


def training_report(plan: TrainingPlan, tokens_per_s: float | None) -> str:
    """Return the plan as lines. tokens_per_s: measured speed of a job of this model; None without one."""
    return "".join(f"{line}\n" for line in _lines(plan, tokens_per_s))


def _lines(plan: TrainingPlan, tokens_per_s: float | None) -> Iterator[str]:
    replayed = f", about {plan.replayed_tokens:,} of them replayed answers" if plan.replayed_tokens else ""
    yield (
        f"{counted(plan.num_examples, 'example')} of {plan.num_tokens:,} tokens, {counted(plan.n_epochs, 'epoch')} in "
        f"{counted(plan.num_steps, 'step')}: {plan.total_tokens:,} tokens to compute{replayed}"
    )
    yield (
        f"Memory: {gib(plan.needed_bytes)}, and {gib(plan.free_bytes)} is free: {gib(plan.weight_bytes)} of weights, "
        f"{gib(plan.state_bytes)} for {plan.num_values:,} trained numbers, {gib(plan.activation_bytes)} of "
        f"activations, {gib(plan.work_bytes)} to work with"
    )
    if plan.needed_bytes > plan.free_bytes:
        yield "That does not fit: lower --max-length, --batch-size or --lora-rank, or choose a smaller model"
    yield _time(plan, tokens_per_s)
    yield _capacity(plan)
    yield "By laws of pre-training, which training on a narrow file does not follow, such a model from nothing takes:"
    for law in PRETRAINING_LAWS:
        optimal = law.optimal_tokens(plan.num_parameters)
        operations = _FULL_OPERATIONS * plan.num_parameters * optimal
        yield (
            f"  {law.name}: {optimal:.2g} tokens are compute-optimal for {plan.num_parameters:,} parameters; expected "
            f"loss {law.loss(plan.num_parameters, optimal):.2f} nats; {duration(operations / _FAST)} to "
            f"{duration(operations / _SLOW)} of CPU time"
        )


def _time(plan: TrainingPlan, tokens_per_s: float | None) -> str:
    if tokens_per_s is not None:
        return f"Time: {duration(plan.total_tokens / tokens_per_s)}, at the measured {tokens_per_s:,.0f} tokens/s"
    time = training_time(plan)
    return (
        f"Time: {duration(time.least_s)} to {duration(time.most_s)} of CPU time, at the {_SLOW / 1e9:g} "
        f"to {_FAST / 1e9:g} GFLOP/s measured on Zen 4; validation and samples not counted. For this machine, give a "
        "finished job of this model with --like"
    )


def training_time(plan: TrainingPlan) -> TrainingTime:
    """Return the modeled time of a plan, from rates that were measured on another machine."""
    operations = _OPERATIONS * plan.num_multiplied * plan.total_tokens
    return TrainingTime(
        least_s=operations / _FAST,
        most_s=operations / _SLOW,
        num_examples=plan.num_examples,
        num_tokens=plan.total_tokens,
        replayed_tokens=plan.replayed_tokens,
        n_epochs=plan.n_epochs,
        num_steps=plan.num_steps,
        basis=f"modeled: {_OPERATIONS} operations for each weight and token, at the {_SLOW / 1e9:g} to "
        f"{_FAST / 1e9:g} GFLOP/s measured on Zen 4; validation and samples not counted",
    )


def _capacity(plan: TrainingPlan) -> str:
    held, wanted = _BITS_OF_VALUE * plan.num_values, _BITS_OF_TOKEN * plan.num_learned
    fits = f"Adapter: rank {plan.lora_rank} holds about {held:,} bits, and the file teaches about {wanted:,}"
    if held >= wanted:
        return f"{fits}: it is large enough (rules of thumb: {_BITS_OF_VALUE} bits a number, {_BITS_OF_TOKEN} a token)"
    rank = math.ceil(plan.lora_rank * wanted / held)
    if rank > plan.width:
        return (
            f"{fits}: it is too small for all of it, and so is any rank: above {plan.width:,}, the model's width, one "
            "adds nothing; train on fewer examples, or choose a larger model"
        )
    memory = gib(plan.bytes_with_rank(rank))
    return f"{fits}: it is too small for all of it; --lora-rank {rank} would hold it, with {memory} of memory"


def measured_speed(folder: JobFolder, model: str) -> float:
    """Return the tokens per second of a job's steps. Raises OptionError for a folder without steps, or if the job
    trained another model by the name of its file or folder, which may be elsewhere than `model` is."""
    try:
        trained = msgspec.json.decode(folder.job.read_bytes(), type=FinetuningJob).engine.model
        steps = [event.data for event in parse_events(folder.events.read_bytes()) if event.kind == "metrics"]
        tokens, seconds = sum(each["tokens"] for each in steps), sum(each["step_s"] for each in steps)
    except (OSError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise OptionError(f"--like: {folder.path} cannot be read ({error}); give the --out of a job") from error
    if Path(trained).name != Path(model).name:
        raise OptionError(
            f"--like: the job in {folder.path} trained {trained}, not {model}; give a job of the same model"
        )
    if not tokens or not seconds:
        raise OptionError(f"--like: {folder.events} has no steps of training; give the --out of a job that has trained")
    return float(tokens / seconds)
