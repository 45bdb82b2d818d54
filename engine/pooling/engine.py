"""PoolingEngine: the queue of a pooling model, and its steps, each of which computes a batch of texts."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from engine.errors import InvalidRequest
from engine.pooling.queue import PoolingQueue, num_client_tokens
from engine.pooling.step_size import PoolingStepSize
from engine.protocol import (
    AbortPooling,
    AdapterRefused,
    AddPooling,
    FinishReason,
    LoadAdapter,
    PoolingInfo,
    PoolingOutput,
    PoolingOutputs,
    PoolingRequest,
    ServiceClass,
    StepStats,
    ToEngine,
)
from engine.protocol.adapters import NO_ADAPTERS
from engine.protocol.pooling import MAX_TOKEN_VALUES
from engine.protocol.sampling_params import check_range
from models.errors import is_out_of_memory, raise_if_lost

if TYPE_CHECKING:  # the process that runs this reports its progress before torch is there
    import torch

logger = logging.getLogger(__name__)


class TextPooler(Protocol):
    """The interface of Pooler that the engine uses."""

    def compute(self, requests: Sequence[PoolingRequest]) -> "list[torch.Tensor]": ...


class PoolingEngine:
    """A ServedEngine for a pooling model. Every added text ends with exactly one output, unless it is aborted."""

    def __init__(
        self,
        pooler: TextPooler,
        info: PoolingInfo,
        queue: PoolingQueue,
        step_size: PoolingStepSize,
        *,
        vocab_size: int,
        max_num_seqs: int,
        on_started: Callable[[list[str], StepStats], None] | None = None,
    ) -> None:
        """max_num_seqs: most texts in a batch. on_started: called before a batch runs, with its ids and gauges."""
        self._pooler = pooler
        self._info = info
        self._queue = queue
        self._step_size = step_size
        self._vocab_size = vocab_size
        self._max_num_seqs = max_num_seqs
        self._on_started = on_started
        self._outputs: list[PoolingOutput] = []  # of texts that were not computed
        self.send_s = 0.0  # see ServedEngine

    @property
    def has_work(self) -> bool:
        return bool(self._queue) or bool(self._outputs)

    is_preparing = False  # nothing is prepared beside the steps
    seconds_to_deadline: float | None = None  # `has_work` is already true while texts wait

    def handle(self, message: ToEngine) -> AdapterRefused | None:
        match message:
            case AddPooling(requests=requests):
                self.add(requests)
            case AbortPooling(ids=ids):
                self.abort(ids)
            case LoadAdapter(number=number):
                return AdapterRefused(number, NO_ADAPTERS)
        return None

    def add(self, requests: Sequence[PoolingRequest]) -> None:
        """Queue texts. A text that can never be computed ends with an error output in the next step.

        The API process rejects such texts before submitting them, with the right HTTP status; this is a second check.
        """
        for request in requests:
            try:
                self._check(request)
            except InvalidRequest as error:
                logger.warning("text %s refused: %s", request.id, error)
                output = PoolingOutput(
                    id=request.id,
                    finish_reason=FinishReason.ERROR,
                    error=str(error),
                    is_refused=True,
                    refused_param=error.param,
                )
                self._outputs.append(output)
            else:
                self._queue.add(request)

    def _check(self, request: PoolingRequest) -> None:
        num_tokens, limit = len(request.prompt_ids), self._info.max_input_tokens
        if not 1 <= num_tokens <= limit:
            raise InvalidRequest(f"the text has {num_tokens:,} tokens; it must have 1 to {limit:,}", param="input")
        for token_id in (min(request.prompt_ids), max(request.prompt_ids)):
            check_range("input token id", token_id, 0, self._vocab_size - 1, param="input")
        if request.token_type_ids is not None and set(request.token_type_ids) - {0, 1}:
            raise InvalidRequest("token types must be 0 or 1", param="input")
        self._info.check(request.params)
        width = self._info.values_per_token(request.params)
        if num_tokens * width > MAX_TOKEN_VALUES:
            raise InvalidRequest(
                f"the text has {num_tokens:,} tokens of {width:,} numbers; it may have {MAX_TOKEN_VALUES:,} numbers",
                param="input",
            )

    def abort(self, request_ids: Sequence[str]) -> None:
        """Remove texts from the queue; unknown ids are ignored."""
        for request_id in request_ids:
            self._queue.remove(request_id)

    def close(self) -> None:
        pass

    def step(self) -> PoolingOutputs:
        """Compute one batch; return its outputs, and outputs of texts that were refused or have timed out."""
        started_s = time.perf_counter()
        for request, reason in self._queue.take_expired(time.monotonic()):
            self._outputs.append(PoolingOutput(id=request.id, finish_reason=reason))
        outputs, self._outputs = self._outputs, []
        service_class = self._queue.next_class()
        if service_class is None:
            return PoolingOutputs(outputs, self._stats())
        max_vectors = MAX_TOKEN_VALUES // self._info.dimensions
        batch = self._queue.take(self._step_size.tokens(service_class), self._max_num_seqs, max_vectors)
        if self._on_started is not None:
            num_batch = sum(request.service_class is ServiceClass.BATCH for request in batch)
            gauges = self._stats(
                is_beginning=True,
                running=len(batch) - num_batch,
                running_batch=num_batch,
                pending_prompt_tokens=num_client_tokens(batch),
            )
            self._on_started([request.id for request in batch], gauges)
        num_tokens = sum(len(request.prompt_ids) for request in batch)
        now_s, start_s = time.monotonic(), time.perf_counter()
        results = self._compute(batch, num_tokens)
        if results is None:
            self._queue.put_back(batch)
            return PoolingOutputs(outputs, self._stats(memory_shortages=1))
        forward_s = time.perf_counter() - start_s
        outputs += [_output(request, result, now_s) for request, result in zip(batch, results, strict=True)]
        stats = self._stats(
            pooled_tokens=num_tokens,
            pooled_requests=len(batch),
            step_s=time.perf_counter() - started_s,
            forward_s=forward_s,
            send_s=self.send_s,
        )
        return PoolingOutputs(outputs, stats)

    def _stats(self, **fields: float) -> StepStats:
        return StepStats(
            waiting=len(self._queue) - self._queue.num_of(ServiceClass.BATCH),
            waiting_tokens=self._queue.num_tokens,
            waiting_urgent=self._queue.num_of(ServiceClass.URGENT),
            waiting_background=self._queue.num_of(ServiceClass.BACKGROUND),
            waiting_batch=self._queue.num_of(ServiceClass.BATCH),
            **fields,  # type: ignore[arg-type]
        )

    def _compute(self, batch: Sequence[PoolingRequest], num_tokens: int) -> "list[torch.Tensor | str] | None":
        """Return each text's values or error message; None to retry with smaller batches after running out of
        memory."""
        start_s = time.perf_counter()
        try:
            results: list[torch.Tensor | str] = list(self._pooler.compute(batch))
        except Exception as error:
            raise_if_lost(error)
            if is_out_of_memory(error) and len(batch) > 1 and self._step_size.shrink(num_tokens):
                logger.warning(
                    "memory ran out for %d texts of %d tokens together; smaller batches follow", len(batch), num_tokens
                )
                return None
            logger.exception("a batch failed, of texts %s", ", ".join(request.id for request in batch))
            return [_failed(error)] if len(batch) == 1 else [self._compute_alone(request) for request in batch]
        self._step_size.observe(num_tokens, time.perf_counter() - start_s)
        return results

    def _compute_alone(self, request: PoolingRequest) -> "torch.Tensor | str":
        try:
            return self._pooler.compute([request])[0]
        except Exception as error:
            raise_if_lost(error)
            logger.exception("text %s fails alone, too, and ends", request.id)
            return _failed(error)


def _failed(error: Exception) -> str:
    return f"the engine failed while it computed this text: {type(error).__name__}"


def _output(request: PoolingRequest, result: "torch.Tensor | str", start_s: float) -> PoolingOutput:
    num_tokens, queue_s, ended_s = len(request.prompt_ids), max(0.0, start_s - request.arrival_s), time.monotonic()
    if not isinstance(result, str) and not bool(result.isfinite().all()):
        result = "the model's output for this text is not finite"
    if isinstance(result, str):
        return PoolingOutput(
            id=request.id, finish_reason=FinishReason.ERROR, error=result, queue_s=queue_s, ended_s=ended_s
        )
    return PoolingOutput(
        id=request.id,
        finish_reason=FinishReason.STOP,
        values=result.contiguous().numpy().astype("<f4", copy=False).tobytes(),
        shape=tuple(result.shape),
        num_tokens=num_tokens,
        queue_s=queue_s,
        ended_s=ended_s,
    )
