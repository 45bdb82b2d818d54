"""The body of POST /v1/fine_tuning/jobs, and query parameters of lists of jobs, events and checkpoints."""

import enum
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from engine.command_io.finetuning.data_preparation import Dedup
from engine.command_io.finetuning.job import Order, Pacing, ScaleRewards, Schedule
from server.schemas.auto import LARGEST, Bound, Named, Names, Number, OrAuto, Whole
from server.schemas.base import StrictModel
from server.schemas.responses import Metadata

MAX_SEED = 2**31 - 1  # OpenAI's
MAX_SUFFIX = 64

_SUFFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_LISTED = 1000  # jobs, events or checkpoints in one page
_MAX_COUNT = 1 << 20  # of numbers that the model limits itself


class TrainedEffort(enum.StrEnum):
    """The reasoning effort of the answers that reinforcement fine-tuning samples."""

    DEFAULT = "default"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class GivenDataPreparation(StrictModel):
    """The steps that prepare the training file: its duplicates, quality, languages, personal data, text of the
    validation file and of other files, scores by the model that is trained, and a grader that judges."""

    dedup: Annotated[Dedup | None, Named(Dedup)] = None
    dedup_threshold: Annotated[float | None, Number(0.5, 1)] = None
    decontaminate_against: Annotated[list[str] | None, Names()] = None
    ngram: Annotated[int | None, Whole(8, 50)] = None
    quality: Annotated[list[str] | None, Names()] = None
    languages: Annotated[list[str] | None, Names()] = None
    mask_pii: Annotated[bool | None, OrAuto()] = None
    max_perplexity: Annotated[str | None, Bound()] = None
    min_ifd: Annotated[str | None, Bound()] = None
    max_ifd: Annotated[str | None, Bound()] = None
    semantic_model: str | None = None
    semantic_threshold: Annotated[float | None, Number(0.5, 1)] = None
    judge: dict[str, Any] | None = None
    min_score: Annotated[float | None, Number(-LARGEST)] = None
    max_removed: Annotated[float | None, Number(0, 1)] = None


class GivenHyperparameters(StrictModel):
    """Hyperparameters of a fine-tuning method. The first four, compute_multiplier, eval_interval, eval_samples and
    reasoning_effort are OpenAI's. The other fields are options of `headrace finetune` with the same names."""

    n_epochs: Annotated[int | None, Whole(1, 1000)] = None
    batch_size: Annotated[int | None, Whole(1, 1024)] = None
    learning_rate_multiplier: Annotated[float | None, Number(0, is_above=True)] = None
    beta: Annotated[float | None, Number(0, 2, is_above=True)] = None
    rpo_alpha: Annotated[float | None, Number(0)] = None
    lora_rank: Annotated[int | None, Whole(1, _MAX_COUNT)] = None
    lora_alpha: Annotated[float | None, Number(0, is_above=True)] = None
    target_modules: Annotated[list[str] | None, Names()] = None
    max_length: Annotated[int | None, Whole(8, _MAX_COUNT)] = None
    warmup_ratio: Annotated[float | None, Number(0, 1)] = None
    schedule: Annotated[Schedule | None, Named(Schedule)] = None
    weight_decay: Annotated[float | None, Number(0)] = None
    max_grad_norm: Annotated[float | None, Number(0, is_above=True)] = None
    replay: Annotated[float | None, Number(0, 10)] = None
    early_stopping: Annotated[int | None, Whole(1, 1000)] = None
    order: Annotated[Order | None, Named(Order)] = None
    pacing: Annotated[Pacing | None, Named(Pacing)] = None
    compute_multiplier: Annotated[float | None, Number(0, 16, is_above=True)] = None
    eval_interval: Annotated[int | None, Whole(1, _MAX_COUNT)] = None
    eval_samples: Annotated[int | None, Whole(1, 128)] = None
    reasoning_effort: Annotated[TrainedEffort | None, Named(TrainedEffort)] = None
    group_size: Annotated[int | None, Whole(2, 128)] = None
    max_completion_tokens: Annotated[int | None, Whole(1, _MAX_COUNT)] = None
    kl_weight: Annotated[float | None, Number(0, 100)] = None
    scale_rewards: Annotated[ScaleRewards | None, Named(ScaleRewards)] = None
    data_preparation: Annotated[GivenDataPreparation | None, OrAuto()] = None


class GivenSettings(StrictModel):
    """Settings of a fine-tuning method."""

    hyperparameters: GivenHyperparameters | None = None


class GivenReinforcement(GivenSettings):
    """Settings of reinforcement fine-tuning. grader and response_format are in OpenAI's form."""

    grader: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


class GivenMethod(StrictModel):
    """The method of a fine-tuning job. Its settings are in the field that `type` names. OpenAI lacks `pretraining`."""

    type: str
    supervised: GivenSettings | None = None
    dpo: GivenSettings | None = None
    pretraining: GivenSettings | None = None
    reinforcement: GivenReinforcement | None = None


class GivenIntegration(StrictModel):
    type: str


def _checked_suffix(suffix: str) -> str:
    if not _SUFFIX.fullmatch(suffix):
        raise PydanticCustomError(
            "suffix", "it must consist of letters, digits, '-', '_' and '.', and begin with a letter or digit"
        )
    return suffix


class FinetuningRequest(StrictModel):
    """A new fine-tuning job. hyperparameters: OpenAI's older form, which `method` replaces."""

    model: str
    training_file: str
    validation_file: str | None = None
    method: GivenMethod | None = None
    hyperparameters: GivenHyperparameters | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=MAX_SUFFIX), AfterValidator(_checked_suffix)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    metadata: Metadata = None
    integrations: list[GivenIntegration] | None = None

    inner_fields = ("method",)


class FinetuningPageQuery(StrictModel):
    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=_MAX_LISTED)] = 20
