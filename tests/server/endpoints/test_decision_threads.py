"""Decisions about many questions are read and written beside the event loop."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from server.decisions.decision import Decision
from server.endpoints.binding.decisions import DecisionProtocol
from server.schemas.decisions import DecisionRequest
from server.text.workers import TextWorkers

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("num_questions", "is_beside"), [(1, False), (4, False), (5, True)])
async def test_many_questions_are_read_beside_the_event_loop(num_questions: int, is_beside: bool) -> None:
    threads: list[int] = []

    def read(*_: object) -> Decision:
        threads.append(threading.get_ident())
        return Decision("", [], 0.0)

    workers = TextWorkers()
    config = SimpleNamespace(strict_parameters=False, decision_min_mass=0.0)
    request: Any = SimpleNamespace(
        context=SimpleNamespace(workers=workers), model=SimpleNamespace(config=config, honors_priority=True, info=None)
    )
    questions = [{"type": "predicate", "instructions": "It floats."}] * num_questions
    body = DecisionRequest.model_validate({"input": "A raft.", "questions": questions})
    protocol: DecisionProtocol[DecisionRequest] = DecisionProtocol(read, lambda *_: None)
    await protocol.check(body, request)
    workers.close()
    assert [thread != threading.get_ident() for thread in threads] == [is_beside]
