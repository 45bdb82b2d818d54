"""PoolingParams: what is asked of a pooling model: one vector of a text, one of each token, or scores."""

import enum

import msgspec

from engine.errors import InvalidRequest
from engine.sampler_params import check_range

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
