"""OutputGroups: holds back outputs of requests whose tokens are sent in groups."""

from engine.client.output_stream import merge_outputs
from engine.protocol import EngineRequest, RequestOutput


class OutputGroups:
    """Buffer of a request's outputs until they have `tokens_per_output` tokens, or the request ends. The first output
    with tokens, and progress before it, are sent immediately.

    Invariant: the buffered outputs of a request have fewer tokens than its `tokens_per_output`, and it has not ended.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}  # of open requests that want more than one token
        self._kept: dict[str, list[RequestOutput]] = {}  # of those whose first tokens were sent

    def add(self, request: EngineRequest) -> None:
        if request.tokens_per_output > 1:
            self._sizes[request.id] = request.tokens_per_output

    def pass_on(self, outputs: list[RequestOutput]) -> list[RequestOutput]:
        """Add a step's outputs to the buffered ones; return the outputs to send now."""
        return outputs if not self._sizes else [each for output in outputs if (each := self._take(output)) is not None]

    def _take(self, output: RequestOutput) -> RequestOutput | None:
        if (size := self._sizes.get(output.id)) is None:
            return output
        kept = self._kept.get(output.id)
        if output.finish_reason is not None:
            del self._sizes[output.id]
            self._kept.pop(output.id, None)
        elif kept is None:
            if output.new_ids:
                self._kept[output.id] = []
        elif sum(len(each.new_ids) for each in kept) + len(output.new_ids) < size:
            kept.append(output)
            return None
        if not kept:
            return output
        merged = merge_outputs([*kept, output])
        kept.clear()
        return merged

    def check(self) -> None:
        assert self._kept.keys() <= self._sizes.keys()
        for name, kept in self._kept.items():
            assert sum(len(each.new_ids) for each in kept) < self._sizes[name]
            assert all(each.finish_reason is None for each in kept)
