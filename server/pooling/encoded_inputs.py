"""EncodedInputs: the inputs of one request to a pooling model, ready to be computed."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.protocol import PoolingParams
from server.generation.terms import RequestTerms
from server.text.input_encoder import EncodedInput


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedInputs:
    """Inputs that are computed together, all with the same params. paths: their names in the request, for errors."""

    items: Sequence[EncodedInput]
    paths: Sequence[str]
    params: PoolingParams
    terms: RequestTerms

    @property
    def num_tokens(self) -> int:
        return sum(len(each.ids) for each in self.items)
