"""Wire types: what a request says of its tenant arrives, and a weight out of range is refused."""

import math

import msgspec
import pytest

from engine.errors import InvalidRequest
from engine.protocol import (
    AddScoring,
    EngineRequest,
    LabelMasses,
    RequestOutput,
    SamplingParams,
    ScoredQuestion,
    ScoringRequest,
    StepOutputs,
    StepStats,
    decode_from_engine,
    decode_to_engine,
)

pytestmark = pytest.mark.fast


def _request(**tenant: object) -> EngineRequest:
    fields = {"id": "a", "prompt_ids": [1], "sampling": SamplingParams(max_tokens=1), "arrival_s": 0.0, **tenant}
    return msgspec.convert(fields, EngineRequest)


def test_a_request_is_of_the_nameless_tenant_unless_it_says_otherwise() -> None:
    request = _request()
    assert (request.tenant, request.tenant_weight) == ("", 1.0)


def test_a_tenant_and_its_weight_cross_the_wire() -> None:
    request = _request(tenant="team a", tenant_weight=2.5)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=EngineRequest) == request


@pytest.mark.parametrize("weight", [0.0, -1.0, 0.0009, 1000.1, math.inf, math.nan])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(InvalidRequest, match=r"tenant_weight is .*; it must be at least 0.001 and at most 1000.0"):
        _request(tenant="a", tenant_weight=weight)


def test_questions_and_their_scores_cross_the_wire() -> None:
    question = ScoredQuestion([2, 3], [[(4,), (5, 6)], [(7,)]])
    message = AddScoring(ScoringRequest(id="a", prompt_ids=[1], questions=[question], arrival_s=0.0))
    assert decode_to_engine(msgspec.msgpack.encode(message)) == message
    output = RequestOutput(id="a", scores=[LabelMasses([0.25, 0.75], 0.5)])
    answer = StepOutputs([output], StepStats())
    assert decode_from_engine(msgspec.msgpack.encode(answer)) == answer
