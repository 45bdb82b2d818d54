"""Wire types of pooling: what arrives is what was sent, and what a model cannot do is refused with the remedy."""

import msgspec
import pytest

from engine.errors import InvalidRequest, UnsupportedParameter
from engine.protocol import (
    AddPooling,
    FinishReason,
    PoolingOutput,
    PoolingOutputs,
    PoolingParams,
    PoolingRequest,
    PoolingTask,
    StepStats,
)
from engine.protocol.messages import FromEngine, ToEngine
from tests.helpers.fake_pooling import pooling_info

pytestmark = pytest.mark.fast

EMBED = PoolingParams(task=PoolingTask.EMBED)


def test_a_text_and_its_vector_cross_the_wire() -> None:
    request = PoolingRequest(id="a", prompt_ids=[1, 2], token_type_ids=[0, 1], params=EMBED, arrival_s=1.0)
    there = AddPooling([request])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(there), type=ToEngine) == there
    output = PoolingOutput(id="a", finish_reason=FinishReason.STOP, values=b"\0" * 8, shape=(1, 2), num_tokens=2)
    back = PoolingOutputs([output], StepStats(pooled_tokens=2))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(back), type=FromEngine) == back


def test_scores_have_no_dimensions() -> None:
    with pytest.raises(InvalidRequest, match="score returns scores and no vectors") as refusal:
        PoolingParams(task=PoolingTask.SCORE, dimensions=8)
    assert refusal.value.param == "dimensions"


def test_a_task_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="cannot classify; it can: embed, token_embed"):
        pooling_info().check(PoolingParams(task=PoolingTask.CLASSIFY))


@pytest.mark.parametrize(
    ("matryoshka", "dimensions", "is_fine"),
    [(None, 4, True), ([], 1, True), ([], 4, True), ([2], 2, True), ([2], 4, True), ([2], 3, False), ([], 5, False)],
)
def test_dimensions_are_those_that_the_model_was_trained_for(
    matryoshka: list[int] | None, dimensions: int, is_fine: bool
) -> None:
    info, params = pooling_info(matryoshka=matryoshka), msgspec.structs.replace(EMBED, dimensions=dimensions)
    if is_fine:
        info.check(params)
        return
    with pytest.raises(InvalidRequest) as refusal:
        info.check(params)
    assert refusal.value.param == "dimensions"


def test_a_model_without_matryoshka_says_how_an_operator_allows_it() -> None:
    with pytest.raises(UnsupportedParameter, match="--hf-overrides"):
        pooling_info().check(msgspec.structs.replace(EMBED, dimensions=2))
