"""PoolingEngine: every text ends with one output, and a fault ends the texts that cause it and no others."""

import time
from collections.abc import Sequence

import pytest
import torch

from engine.pooling.engine import PoolingEngine
from engine.pooling.queue import PoolingQueue
from engine.pooling.step_size import PoolingStepSize
from engine.protocol import (
    FinishReason,
    PoolingOutput,
    PoolingParams,
    PoolingRequest,
    PoolingTask,
    ServiceClass,
    StepStats,
)
from tests.helpers.fake_pooling import pooling_info

EMBED = PoolingParams(task=PoolingTask.EMBED)


class FakePooler:
    """Gives [first id, number of texts in the batch]; fails with `fault` where a text begins with 9, and is not finite
    where one begins with 8."""

    def __init__(self, fault: Exception | None = None, max_tokens: int = 10**6) -> None:
        self.fault = fault or RuntimeError("a kernel broke")
        self.max_tokens = max_tokens
        self.batches: list[list[str]] = []

    def compute(self, requests: Sequence[PoolingRequest]) -> list[torch.Tensor]:
        self.batches.append([request.id for request in requests])
        if sum(len(request.prompt_ids) for request in requests) > self.max_tokens:
            raise MemoryError
        if any(request.prompt_ids[0] == 9 for request in requests):
            raise self.fault
        size = float(len(requests))
        return [torch.tensor([torch.nan if text.prompt_ids[0] == 8 else text.prompt_ids[0], size]) for text in requests]


def _text(name: str, *ids: int, **fields: object) -> PoolingRequest:
    fields = {"params": EMBED, "arrival_s": time.monotonic(), **fields}
    return PoolingRequest(id=name, prompt_ids=list(ids), **fields)  # type: ignore[arg-type]


def _engine(pooler: FakePooler, max_tokens: int | None = 100, **options: object) -> PoolingEngine:
    defaults = {"vocab_size": 50, "max_num_seqs": 8}
    queue, step_size = PoolingQueue(honors_priority=False), PoolingStepSize(max_tokens)
    return PoolingEngine(pooler, pooling_info(max_input_tokens=20), queue, step_size, **{**defaults, **options})  # type: ignore[arg-type]


def _run(engine: PoolingEngine) -> tuple[dict[str, PoolingOutput], list[StepStats]]:
    outputs: dict[str, PoolingOutput] = {}
    stats = []
    while engine.has_work:
        step = engine.step()
        assert not outputs.keys() & {output.id for output in step.outputs}
        outputs |= {output.id: output for output in step.outputs}
        stats.append(step.stats)
    return outputs, stats


def _values(output: PoolingOutput) -> list[float]:
    return torch.frombuffer(bytearray(output.values), dtype=torch.float32).view(output.shape).tolist()


def test_texts_are_computed_together_and_counted() -> None:
    started: list[list[str]] = []
    engine = _engine(FakePooler(), on_started=lambda ids, _: started.append(ids))
    engine.add([_text("a", 1, 2), _text("b", 3)])
    outputs, (stats,) = _run(engine)
    assert [_values(outputs[name]) for name in "ab"] == [[1.0, 2.0], [3.0, 2.0]]
    assert {output.finish_reason for output in outputs.values()} == {FinishReason.STOP}
    assert outputs["a"].num_tokens == 2
    assert outputs["a"].queue_s is not None
    assert (stats.pooled_tokens, stats.pooled_requests, stats.waiting) == (3, 2, 0)
    assert stats.step_s >= stats.forward_s > 0.0
    assert started == [["a", "b"]]


def test_what_does_not_fit_waits_and_is_counted_by_class() -> None:
    engine = _engine(FakePooler(), max_tokens=4)
    engine.add([_text("a", 1, 1, 1), _text("b", 2, 2, 2), _text("c", 3, service_class=ServiceClass.BACKGROUND)])
    _, stats = _run(engine)
    assert [(each.pooled_requests, each.waiting, each.waiting_background) for each in stats] == [(1, 2, 1), (2, 0, 0)]
    assert [each.waiting_tokens for each in stats] == [4, 0]


def test_texts_run_while_their_batch_is_computed_and_no_longer() -> None:
    gauges: list[StepStats] = []
    engine = _engine(FakePooler(), max_tokens=4, on_started=lambda _, stats: gauges.append(stats))
    line = {"service_class": ServiceClass.BATCH}
    engine.add([_text("a", 1), _text("b", 2), _text("c", 1, 1, 1), _text("l", 1, 1, **line), _text("m", 1, 1, **line)])
    _, after = _run(engine)
    assert [(each.running, each.waiting) for each in gauges if each.running] == [(2, 1), (1, 0)]
    assert [(each.pending_prompt_tokens, each.waiting_tokens) for each in gauges if each.running] == [(2, 3), (3, 0)]
    assert sum(each.running_batch for each in gauges) == 2
    assert all(each.is_beginning for each in gauges)
    assert all((each.running, each.running_batch, each.is_beginning) == (0, 0, False) for each in after)


def test_texts_of_batches_are_in_no_queue_of_clients() -> None:
    engine = _engine(FakePooler(), max_tokens=4)
    line = {"service_class": ServiceClass.BATCH}
    engine.add([_text("l", 1, 1, 1, **line), _text("m", 2, 2, 2, **line), _text("n", 3, 3, **line), _text("a", 4)])
    _, stats = _run(engine)
    assert [(each.waiting, each.waiting_batch) for each in stats] == [(0, 3), (0, 2), (0, 1), (0, 0)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (_text("a"), "has 0 tokens; it must have 1 to 20"),
        (_text("a", *[1] * 21), "has 21 tokens"),
        (_text("a", 50), "input token id is 50"),
        (_text("a", 1, token_type_ids=[2]), "token types must be 0 or 1"),
        (_text("a", 1, params=PoolingParams(task=PoolingTask.SCORE)), "cannot score"),
        (_text("a", 1, params=PoolingParams(task=PoolingTask.EMBED, dimensions=2)), "dimensions is 2"),
    ],
)
def test_a_text_that_can_never_be_computed_is_refused(text: PoolingRequest, reason: str) -> None:
    pooler = FakePooler()
    engine = _engine(pooler)
    engine.add([text])
    outputs, _ = _run(engine)
    assert outputs["a"].is_refused
    assert reason in str(outputs["a"].error)
    assert pooler.batches == []


def test_a_fault_ends_the_text_that_causes_it_alone() -> None:
    engine = _engine(FakePooler())
    engine.add([_text("a", 1), _text("bad", 9), _text("b", 2)])
    outputs, _ = _run(engine)
    assert outputs["bad"].error == "the engine failed while it computed this text: RuntimeError"
    assert [_values(outputs[name]) for name in "ab"] == [[1.0, 1.0], [2.0, 1.0]]


def test_a_result_that_is_not_finite_is_an_error() -> None:
    engine = _engine(FakePooler())
    engine.add([_text("bad", 8), _text("a", 1)])
    outputs, _ = _run(engine)
    assert outputs["bad"].finish_reason is FinishReason.ERROR
    assert "not finite" in str(outputs["bad"].error)
    assert outputs["a"].finish_reason is FinishReason.STOP


def test_after_a_shortage_of_memory_batches_are_smaller_and_the_order_stays() -> None:
    pooler = FakePooler(max_tokens=5)
    engine = _engine(pooler)
    engine.add([_text(str(number), number, 1) for number in range(1, 6)])
    outputs, stats = _run(engine)
    assert {output.finish_reason for output in outputs.values()} == {FinishReason.STOP}
    assert pooler.batches == [["1", "2", "3", "4", "5"], ["1", "2"], ["3", "4"], ["5"]]
    assert sum(each.memory_shortages for each in stats) == 1


def test_aborted_texts_are_not_computed_and_have_no_output() -> None:
    pooler = FakePooler()
    engine = _engine(pooler)
    engine.add([_text("a", 1), _text("b", 2)])
    engine.abort(["a", "gone"])
    outputs, _ = _run(engine)
    assert (list(outputs), pooler.batches) == (["b"], [["b"]])


def test_a_text_whose_time_is_over_is_not_computed() -> None:
    pooler = FakePooler()
    engine = _engine(pooler)
    engine.add([_text("a", 1, deadline_s=time.monotonic() - 1.0)])
    outputs, _ = _run(engine)
    assert (outputs["a"].finish_reason, pooler.batches) == (FinishReason.TIMEOUT, [])


def test_a_batch_takes_as_long_as_planned_and_less_where_others_may_come() -> None:
    size = PoolingStepSize(None)
    assert size.tokens(ServiceClass.INTERACTIVE) == 256
    size.observe(1000, 0.1)
    assert [size.tokens(each) for each in (ServiceClass.INTERACTIVE, ServiceClass.BATCH)] == [2500, 500]
    size.observe(10, 100.0)  # too few to say anything
    assert size.tokens(ServiceClass.INTERACTIVE) == 2500
    assert PoolingStepSize(77).tokens(ServiceClass.BATCH) == 77
