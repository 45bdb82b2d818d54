"""OutputGroups: outputs of requests that nobody reads along come several tokens at a time."""

from engine.client.output_stream import merge_outputs
from engine.protocol import EngineRequest, RequestOutput


class OutputGroups:
    """Keeps the outputs of a request until they have as many tokens as it asks for, or it ends.

    Invariant: what is kept of a request has fewer tokens than its `tokens_per_output`, and nothing is kept of one that
    has ended.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}  # of requests that have not ended and want more than one
        self._kept: dict[str, RequestOutput] = {}

    def add(self, request: EngineRequest) -> None:
        """A request has come."""
        if request.tokens_per_output > 1:
            self._sizes[request.id] = request.tokens_per_output

    def pass_on(self, outputs: list[RequestOutput]) -> list[RequestOutput]:
        """Of a step's outputs and those that are kept, what is to be sent now."""
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
        """Assert the invariant."""
        assert all(len(kept.new_ids) < self._sizes[name] for name, kept in self._kept.items())
        assert all(kept.finish_reason is None for kept in self._kept.values())
