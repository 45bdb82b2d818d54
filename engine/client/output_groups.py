"""OutputGroups: merges the outputs of requests that no client streams, to send several tokens at a time."""

from engine.client.output_stream import merge_outputs
from engine.protocol import EngineRequest, RequestOutput


class OutputGroups:
    """Buffer that merges a request's outputs until they have `tokens_per_output` tokens, or the request ends.

    Invariant: a buffered output has fewer tokens than its request's `tokens_per_output`, and its request has not ended.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}  # of open requests that want more than one token
        self._kept: dict[str, RequestOutput] = {}

    def add(self, request: EngineRequest) -> None:
        if request.tokens_per_output > 1:
            self._sizes[request.id] = request.tokens_per_output

    def pass_on(self, outputs: list[RequestOutput]) -> list[RequestOutput]:
        """Merge a step's outputs into the buffered ones; return the outputs to send now."""
        return outputs if not self._sizes else [each for output in outputs if (each := self._take(output)) is not None]

    def _take(self, output: RequestOutput) -> RequestOutput | None:
        if (size := self._sizes.get(output.id)) is None:
            return output
        if (kept := self._kept.pop(output.id, None)) is not None:
            output = merge_outputs(kept, output)
        if output.finish_reason is not None:
            del self._sizes[output.id]
        elif len(output.new_ids) < size:
            self._kept[output.id] = output
            return None
        return output

    def check(self) -> None:
        assert all(len(kept.new_ids) < self._sizes[name] for name, kept in self._kept.items())
        assert all(kept.finish_reason is None for kept in self._kept.values())
