"""FaultyRunner, FaultyPooler, FaultyFolder and FaultySocket: the real objects with planned faults.

engine/child_processes/fault_plan.py lists the faults. Each injected fault is logged.
"""

import errno
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from engine.child_processes.fault_plan import FaultPlan, PlannedFault
from engine.kv_tiers.block_folder import BlockFolder
from engine.pooling.engine import TextPooler
from engine.protocol import PoolingRequest
from engine.runner.runner import PendingStep, TorchRunner
from engine.scheduling.plan import StepPlan, StepResult
from engine.scheduling.sequence import Sequence as EngineSequence

logger = logging.getLogger(__name__)


class FaultyRunner:
    def __init__(self, runner: TorchRunner, faults: FaultPlan) -> None:
        self.kv_groups = runner.kv_groups
        self.copies_blocks = runner.copies_blocks
        self._runner = runner
        self._faults = _Faults(faults)

    def launch(self, plan: StepPlan) -> PendingStep:
        for _ in self._faults.due("logits"):
            self._spoil_next_logits()
        return self._runner.launch(plan)

    def can_feed(self, pending: PendingStep) -> bool:
        return self._runner.can_feed(pending)

    def collect(self, pending: PendingStep) -> StepResult:
        result = self._runner.collect(pending)
        self._faults.inject([item.sequence.id for item in pending.plan.items])
        return result

    def release(self, sequence: EngineSequence) -> None:
        self._faults.failing_ids.discard(sequence.id)
        self._runner.release(sequence)

    def _spoil_next_logits(self) -> None:
        decoder = self._runner.decoder
        compute = decoder.logits

        def spoiled(hidden: torch.Tensor, adapter_slots: torch.Tensor | None = None) -> torch.Tensor:
            decoder.logits = compute  # type: ignore[method-assign]
            logits = compute(hidden, adapter_slots)
            logits[0] = torch.nan
            return logits

        decoder.logits = spoiled  # type: ignore[method-assign]


class FaultyPooler:
    def __init__(self, pooler: TextPooler, faults: FaultPlan) -> None:
        self._pooler = pooler
        self._faults = _Faults(faults)

    def compute(self, requests: Sequence[PoolingRequest]) -> list[torch.Tensor]:
        results = self._pooler.compute(requests)
        for _ in self._faults.due("logits"):
            results[0] = torch.full_like(results[0], torch.nan)
        self._faults.inject([request.id for request in requests])
        return results


class FaultyFolder(BlockFolder):
    def __init__(self, faults: FaultPlan, root: Path, fingerprint: str, max_block_bytes: int) -> None:
        super().__init__(root, fingerprint, max_block_bytes)
        self._faults = _Faults(faults)

    def read(self, key: bytes, used_ns: int) -> bytes:
        for fault in self._faults.due("kv_read"):
            if fault.action == "fail":
                raise OSError(errno.EIO, "an injected fault of the disk")
            time.sleep(fault.seconds)
        return super().read(key, used_ns)

    def write(self, key: bytes, content: bytes, used_ns: int) -> int:
        for _ in self._faults.due("kv_write"):
            raise OSError(errno.ENOSPC, "an injected full disk")
        return super().write(key, content, used_ns)


class _Faults:
    """Planned faults, and the ids of requests that a fault at the point `request` has hit: each step with one of them
    raises."""

    def __init__(self, faults: FaultPlan) -> None:
        self._faults = faults
        self.failing_ids: set[str] = set()

    def due(self, point: str) -> Iterator[PlannedFault]:
        for fault in self._faults.due(point):
            logger.warning("injected fault: %s %s", fault.point, fault.action)
            yield fault

    def inject(self, ids: list[str]) -> None:
        """Inject the faults that are due in a step with the requests `ids`."""
        for fault in self.due("step"):
            _break_step(fault)
        for _ in self.due("request"):
            self.failing_ids.add(ids[0])
        if not self.failing_ids.isdisjoint(ids):
            raise RuntimeError("an injected fault of a request")


def _break_step(fault: PlannedFault) -> None:
    match fault.action:
        case "raise":
            raise RuntimeError("an injected fault of the runner")
        case "memory":
            raise MemoryError("an injected shortage of memory")
        case "lost":
            raise RuntimeError("CUDA error: an illegal memory access was encountered (injected)")
        case "hang":
            time.sleep(fault.seconds)
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)


class FaultySocket:
    """Engine-side socket that delays or corrupts the frames of outputs it sends."""

    def __init__(self, sock: socket.socket, faults: FaultPlan) -> None:
        self._sock = sock
        self._faults = _Faults(faults)

    def sendall(self, frame: bytes) -> None:
        for fault in self._faults.due("output"):
            if fault.action == "delay":
                time.sleep(fault.seconds)
            else:
                frame = frame[:4] + b"\xc1" * (len(frame) - 4)  # msgpack uses this byte for nothing
        self._sock.sendall(frame)
