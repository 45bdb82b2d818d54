"""The engine's loop: what it waits for while there is nothing to compute."""

import queue
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from engine import process
from engine.grammar.sequence_grammar import SequenceGrammar
from engine.pooling.engine import PoolingEngine
from engine.pooling.queue import PoolingQueue
from engine.pooling.step_size import PoolingStepSize
from engine.protocol import AdapterRefused, FinishReason, ForgetAdapter, LoadAdapter, PoolingRequest, Shutdown, Working
from engine.protocol.adapters import NO_ADAPTERS
from engine.protocol.served_engine import ServedEngine
from tests.helpers.engines import make_engine, make_request
from tests.helpers.fake_pooling import pooling_info
from tests.helpers.grammars import GRAMMARS
from tests.helpers.ledger import EOS_ID

JOIN_S = 60.0


def test_a_request_that_waits_for_its_grammar_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = make_engine()
    times = [99.99, 99.99]  # when the loop looks for work, and how long it may sleep
    monkeypatch.setattr(engine._scheduler, "_clock", lambda: times.pop() if times else 100.0)
    compiling = SequenceGrammar(frozenset([EOS_ID]), appends_forced=True)
    monkeypatch.setattr(engine, "_start_grammar", lambda _: compiling)
    engine.add(make_request("a", [1, 2], grammar=GRAMMARS[0], deadline_s=100.0))
    sent: list[Any] = []
    inbox: process.Inbox = queue.SimpleQueue()

    def send(_: object, message: object) -> None:
        sent.append(message)
        inbox.put(Shutdown())

    monkeypatch.setattr(process, "_send", send)
    loop = threading.Thread(target=process._serve, args=(engine, inbox, None, lambda: None), daemon=True)
    loop.start()
    loop.join(JOIN_S)
    assert not loop.is_alive()
    (step,) = sent
    assert [(each.id, each.finish_reason) for each in step.outputs] == [("a", FinishReason.TIMEOUT)]


class _NoPooler:
    def compute(self, requests: Sequence[PoolingRequest]) -> list[torch.Tensor]:
        raise AssertionError(requests)


def _pooling_engine() -> PoolingEngine:
    waiting, step_size = PoolingQueue(honors_priority=False), PoolingStepSize(8)
    return PoolingEngine(_NoPooler(), pooling_info(), waiting, step_size, vocab_size=9, max_num_seqs=1)


@pytest.mark.parametrize("make", [lambda: make_engine()[0], _pooling_engine])
def test_a_load_that_an_engine_without_adapters_gets_is_refused(
    make: Callable[[], ServedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(process, "_send", lambda _, message: sent.append(message))
    inbox: process.Inbox = queue.SimpleQueue()
    for message in (LoadAdapter(7, "/adapters/sql"), ForgetAdapter(b"S"), Shutdown()):
        inbox.put(message)
    loop = threading.Thread(target=process._serve, args=(make(), inbox, None, lambda: None), daemon=True)
    loop.start()
    loop.join(JOIN_S)
    assert not loop.is_alive()
    assert sent == [AdapterRefused(7, NO_ADAPTERS)]


def test_compiling_a_grammar_is_reported_as_work(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = make_engine()
    monkeypatch.setattr(process, "_PULSE_INTERVAL_S", 0.001)
    monkeypatch.setattr(type(engine), "is_preparing", True)
    inbox: process.Inbox = queue.SimpleQueue()
    pulses: list[bool] = []

    def pulse() -> None:
        pulses.append(True)
        if len(pulses) == 3:
            inbox.put(Shutdown())

    loop = threading.Thread(target=process._serve, args=(engine, inbox, None, pulse), daemon=True)
    loop.start()
    loop.join(JOIN_S)
    assert not loop.is_alive()
    assert len(pulses) == 3


def test_pulses_are_sent_at_most_once_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    times = [10.0, 10.2, 10.9, 11.0, 11.5, 12.1]
    monkeypatch.setattr(process, "_send", lambda _, message: sent.append(message))
    monkeypatch.setattr(process.time, "monotonic", lambda: times.pop(0))
    pulse = process.Pulse(None)  # type: ignore[arg-type]
    for _ in range(6):
        pulse()
    assert sent == [Working()] * 3


def test_an_engine_that_cannot_read_its_messages_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be deaf, and look busy."""
    ended: list[int] = []

    def end(status: int) -> None:
        ended.append(status)
        raise SystemExit

    monkeypatch.setattr(process.os, "_exit", end)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"\x02\0\0\0\xc1\xc1")
        with pytest.raises(SystemExit):
            process._read(theirs, queue.SimpleQueue())
    assert ended == [1]
