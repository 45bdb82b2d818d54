"""Pooler: turns texts into vectors or scores, several in one forward pass."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from engine.protocol import PoolingRequest, PoolingTask
from models.architecture.pooling import TokenPooling
from models.decoder import Decoder
from models.forward.packed import PackedForward
from models.pooling.scheme import PoolingScheme, pool_tokens
from models.pooling.traits import ScoreActivation
from models.system.cuda import naming_faults

_SCORES = (PoolingTask.CLASSIFY, PoolingTask.SCORE)


class Pooler:
    """Computes vectors and scores of texts. scheme: how token states become a vector; None without embeddings."""

    def __init__(
        self,
        forward: PackedForward,
        decoder: Decoder,
        scheme: PoolingScheme | None,
        activation: ScoreActivation = ScoreActivation.IDENTITY,
    ) -> None:
        self._forward = forward
        self._decoder = decoder
        self._scheme = scheme
        self._activation = activation

    def compute(self, requests: Sequence[PoolingRequest]) -> list[torch.Tensor]:
        """Return each text's vector [D], vectors [T, D] or scores [labels]: fp32, on the CPU.

        Raises MemoryError if memory runs out, and DeviceLostError if the device has failed for good.
        """
        with naming_faults(self._forward.device):
            return self._compute(requests)

    def _compute(self, requests: Sequence[PoolingRequest]) -> list[torch.Tensor]:
        lengths = [len(request.prompt_ids) for request in requests]
        ids = [each for request in requests for each in request.prompt_ids]
        rows = self._only_rows(requests, lengths)
        states = self._forward.states(ids, lengths, _token_types(requests), rows)
        if rows is not None:
            lengths = [1] * len(lengths)
        with torch.inference_mode():
            return self._pooled(requests, states, lengths)

    def _pooled(
        self, requests: Sequence[PoolingRequest], states: torch.Tensor, lengths: list[int]
    ) -> list[torch.Tensor]:
        texts = states.split(lengths)
        results: list[torch.Tensor | None] = [None] * len(requests)
        for is_score in (False, True):
            chosen = [
                index
                for index, request in enumerate(requests)
                if request.params.task is not PoolingTask.TOKEN_EMBED and (request.params.task in _SCORES) == is_score
            ]
            if chosen:
                own = states if len(chosen) == len(requests) else torch.cat([texts[index] for index in chosen])
                own_lengths = [lengths[index] for index in chosen]
                pooled = self._scores(own, own_lengths) if is_score else self._vectors(own, own_lengths)
                for index, row in zip(chosen, pooled, strict=True):
                    results[index] = row
        return [
            self._finished(request, text if result is None else result)
            for request, text, result in zip(requests, texts, results, strict=True)
        ]

    def _vectors(self, states: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        assert self._scheme is not None
        return self._scheme.pool(states, lengths)

    def _scores(self, states: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        head = self._decoder.score_head
        assert head is not None
        assert self._decoder.spec.score_head is not None
        scores: torch.Tensor = head(pool_tokens(states, lengths, self._decoder.spec.score_head.pooling))
        return scores

    def _finished(self, request: PoolingRequest, values: torch.Tensor) -> torch.Tensor:
        params = request.params
        if params.task in _SCORES:
            return (values if params.normalize is False else self._activation(values)).cpu()
        values = values[..., : params.dimensions]
        is_pooled = params.task is PoolingTask.EMBED
        by_default = is_pooled and self._scheme is not None and self._scheme.normalizes
        if by_default if params.normalize is None else params.normalize:
            values = F.normalize(values, dim=-1)
        return values.cpu()

    def _only_rows(self, requests: Sequence[PoolingRequest], lengths: list[int]) -> torch.Tensor | None:
        """Return the rows whose hidden states are used, if all texts use only their first or last row; else None."""
        used = {self._only_row(request.params.task) for request in requests}
        if used == {TokenPooling.CLS}:
            return torch.tensor([0, *lengths[:-1]]).cumsum(0)
        if used == {TokenPooling.LAST}:
            return torch.tensor(lengths).cumsum(0) - 1
        return None

    def _only_row(self, task: PoolingTask) -> TokenPooling | None:
        if task in _SCORES:
            head = self._decoder.spec.score_head
            return None if head is None else head.pooling
        return self._scheme.single_token if task is PoolingTask.EMBED and self._scheme is not None else None


def _token_types(requests: Sequence[PoolingRequest]) -> list[int] | None:
    if all(request.token_type_ids is None for request in requests):
        return None
    return [each for request in requests for each in request.token_type_ids or [0] * len(request.prompt_ids)]
