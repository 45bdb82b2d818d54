"""Pooling requests, their parameters and outputs, and the capabilities of a pooling model.

One text is one request. For a cross-encoder, a pair of texts is one text with token types: the server joins the pair as
the model's tokenizer does.
"""

import enum
from collections.abc import Sequence

import msgspec

from engine.errors import InvalidRequest, UnsupportedParameter
from engine.protocol.generation import QueuedRequest
from engine.protocol.kinds import FinishReason
from engine.protocol.sampling_params import check_range

MAX_DIMENSIONS = 2**20
# Tokens times dimensions, 64 MiB in fp32, of token_embed in one request and in one batch: see MAX_FRAME_BYTES.
MAX_TOKEN_VALUES = 1 << 24


class PoolingTask(enum.StrEnum):
    """A task of a pooling model. Output shapes: EMBED [D], TOKEN_EMBED [T, D], CLASSIFY [labels], SCORE [1]."""

    EMBED = "embed"  # one vector: [D]
    TOKEN_EMBED = "token_embed"  # one vector per token, unpooled: [T, D]
    CLASSIFY = "classify"  # one score per label: [labels]
    SCORE = "score"  # how well a pair of texts matches, by a cross-encoder: [1]


class PoolingParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of a pooling request. Raises InvalidRequest when built; `PoolingInfo.check` checks them against the
    model.

    normalize: scale vectors to length 1, or apply the model's activation to scores; None takes the model's default.
    """

    task: PoolingTask
    dimensions: int | None = None  # leading dimensions to keep, before vectors are normalized; None: all
    normalize: bool | None = None

    def __post_init__(self) -> None:
        if self.dimensions is None:
            return
        check_range("dimensions", self.dimensions, 1, MAX_DIMENSIONS)
        if self.task not in (PoolingTask.EMBED, PoolingTask.TOKEN_EMBED):
            raise InvalidRequest(
                f"dimensions is {self.dimensions}, but {self.task.value} returns scores and no vectors; leave it out",
                param="dimensions",
            )


_CAPABILITIES = {
    PoolingTask.EMBED: ["embedding"],
    PoolingTask.TOKEN_EMBED: [],
    PoolingTask.CLASSIFY: ["classify"],
    PoolingTask.SCORE: ["rerank", "score"],
}


def capabilities_of(tasks: Sequence[PoolingTask]) -> list[str]:
    """Return the names under which a model card lists these tasks."""
    return [name for task in tasks for name in _CAPABILITIES[task]]


class PoolingRequest(QueuedRequest, frozen=True, kw_only=True):
    """One text to pool. prompt_ids: tokens with the special tokens that the model expects."""

    token_type_ids: list[int] | None = None  # one for each of prompt_ids; None: all 0
    params: PoolingParams

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.token_type_ids is None or len(self.token_type_ids) == len(self.prompt_ids)


class PoolingOutput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The single output of a PoolingRequest.

    values: an array of fp32, little-endian and row-major, with dimensions `shape`. finish_reason: STOP if there are
    values, else the reason why there are none.
    """

    id: str
    finish_reason: FinishReason
    values: bytes = b""
    shape: tuple[int, ...] = ()
    num_tokens: int = 0  # computed tokens
    error: str | None = None  # message, with FinishReason.ERROR
    is_refused: bool = False  # with an error: the request's own fault
    refused_param: str | None = None
    queue_s: float | None = None  # from arrival to the beginning of the step; None without a step
    ended_s: float | None = None  # the engine's time.monotonic() after the step


class PoolingInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Capabilities and defaults of a pooling model."""

    tasks: list[PoolingTask]
    dimensions: int  # dimensions of a full vector
    matryoshka: list[int] | None = None  # dimensions that vectors may be cut to; []: any; None: none
    max_input_tokens: int
    normalize: bool = False  # whether vectors have length 1 by default
    prompts: dict[str, str] = {}  # texts to put before an input, by name (sentence-transformers' "prompts")
    default_prompt: str | None = None  # name of the prompt for requests that name none
    labels: list[str] = []  # labels of a classifier, in the order of its scores
    activation: str = "identity"  # default activation of scores: "sigmoid", "softmax", "identity"
    pooling: str = ""  # how tokens become a vector, for people: "mean", "cls", ...

    @property
    def capabilities(self) -> list[str]:
        return capabilities_of(self.tasks)

    def values_per_token(self, params: PoolingParams) -> int:
        """Return the number of output values per input token; 0 for tasks whose output size is fixed."""
        return (params.dimensions or self.dimensions) if params.task is PoolingTask.TOKEN_EMBED else 0

    def check(self, params: PoolingParams) -> None:
        """Raise InvalidRequest if the model does not support these parameters."""
        if params.task not in self.tasks:
            raise InvalidRequest(
                f"this model cannot {params.task.value}; it can: {', '.join(task.value for task in self.tasks)}"
            )
        if params.dimensions is None or params.dimensions == self.dimensions:
            return
        if self.matryoshka is None:
            raise UnsupportedParameter(
                f"dimensions is {params.dimensions}, and this model's vectors have {self.dimensions}: it was not "
                "trained to have them cut (if it was, the operator can say so with --hf-overrides "
                "'{\"is_matryoshka\": true}'); leave dimensions out",
                param="dimensions",
            )
        check_range("dimensions", params.dimensions, 1, self.dimensions)
        if self.matryoshka and params.dimensions not in self.matryoshka:
            raise InvalidRequest(
                f"dimensions is {params.dimensions}; this model was trained for "
                f"{', '.join(map(str, sorted(self.matryoshka)))}, and has {self.dimensions}",
                param="dimensions",
            )
