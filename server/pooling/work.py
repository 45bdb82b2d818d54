"""PoolingWork: what one request asks of a pooling model."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.protocol import PoolingParams
from server.generation.terms import RequestTerms
from server.text.input_encoder import EncodedInput


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingWork:
    """Inputs that are computed together, all in the same way."""

    inputs: Sequence[EncodedInput]
    paths: Sequence[str]  # what the client calls each, for errors
    params: PoolingParams
    terms: RequestTerms

    @property
    def num_tokens(self) -> int:
        return sum(len(each.ids) for each in self.inputs)
