"""A text for a pooling model, what comes of it, and what such a model can do.

One text is one request. A pair, for a cross-encoder, is one text with token types: the server joins it as the model's
tokenizer does.
"""

import enum
from collections.abc import Sequence

import msgspec

from engine.errors import InvalidRequest, UnsupportedParameter
from engine.protocol.generation import MAX_TENANT_WEIGHT, MIN_TENANT_WEIGHT
from engine.protocol.kinds import FinishReason, ServiceClass
from engine.protocol.sampler_params import check_range

MAX_DIMENSIONS = 2**20
# Tokens times dimensions, 64 MiB in fp32, of token_embed in one request, and in one batch: see MAX_FRAME_BYTES.
MAX_TOKEN_VALUES = 1 << 24


class PoolingTask(enum.StrEnum):
    EMBED = "embed"  # one vector: [D]
    TOKEN_EMBED = "token_embed"  # one vector a token, unpooled: [T, D]
    CLASSIFY = "classify"  # a score a label: [labels]
    SCORE = "score"  # of a cross-encoder, how well a pair of texts matches: [1]


class PoolingParams(msgspec.Struct, frozen=True, kw_only=True):
    """What to compute of a text. Validated when built; raises InvalidRequest. What depends on the model is checked by
    `PoolingInfo.check`.

    normalize: whether vectors get length 1, or scores the model's activation; None: as the model says.
    """

    task: PoolingTask
    dimensions: int | None = None  # how many of the first ones, before they are normalized; None: all
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
    """What a model's card says of these."""
    return [name for task in tasks for name in _CAPABILITIES[task]]


class PoolingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One text to pool. All times are time.monotonic(); fields without a comment are as EngineRequest's."""

    id: str
    prompt_ids: list[int]  # with the model's special tokens
    token_type_ids: list[int] | None = None  # as many; None: all 0
    params: PoolingParams
    arrival_s: float
    deadline_s: float | None = None  # if it is not computed by then, it ends
    start_by_s: float | None = None
    priority: int = 0
    service_class: ServiceClass = ServiceClass.INTERACTIVE
    tenant: str = ""
    tenant_weight: float = 1.0

    def __post_init__(self) -> None:
        check_range("tenant_weight", self.tenant_weight, MIN_TENANT_WEIGHT, MAX_TENANT_WEIGHT)
        assert self.token_type_ids is None or len(self.token_type_ids) == len(self.prompt_ids)


class PoolingOutput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of a PoolingRequest; each has exactly one.

    values: fp32, little-endian, row by row, of `shape`; see PoolingTask. finish_reason: STOP if there are any, else
    why there are none.
    """

    id: str
    finish_reason: FinishReason
    values: bytes = b""
    shape: tuple[int, ...] = ()
    num_tokens: int = 0  # that were computed
    error: str | None = None  # with FinishReason.ERROR
    is_refused: bool = False  # with an error: the request's own fault
    refused_param: str | None = None
    queue_s: float | None = None  # arrival to the beginning of its step; None if it had none
    ended_s: float | None = None  # time.monotonic() of the engine when it was computed


class PoolingInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a pooling model can do, and does unless a request says otherwise."""

    tasks: list[PoolingTask]
    dimensions: int  # of a whole vector
    matryoshka: list[int] | None = None  # dimensions that it was trained to be cut to; []: any; None: none
    max_input_tokens: int
    normalize: bool = False  # whether vectors have length 1
    prompts: dict[str, str] = {}  # texts to put in front, by name (sentence-transformers' "prompts")
    default_prompt: str | None = None  # name of the one for texts whose request names none
    labels: list[str] = []  # of a classifier, in the order of its scores
    activation: str = "identity"  # of its scores, by default: "sigmoid", "softmax", "identity"
    pooling: str = ""  # how tokens become a vector: "mean", "cls", ...; for people

    @property
    def capabilities(self) -> list[str]:
        """What a model's card says that it can do."""
        return capabilities_of(self.tasks)

    def values_per_token(self, params: PoolingParams) -> int:
        """How many numbers an output has for each token of its input; 0 if their number does not depend on tokens."""
        return (params.dimensions or self.dimensions) if params.task is PoolingTask.TOKEN_EMBED else 0

    def check(self, params: PoolingParams) -> None:
        """Raise InvalidRequest if the model cannot do this."""
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
