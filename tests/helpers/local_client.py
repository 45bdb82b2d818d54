"""LocalClient: an engine in this process, used synchronously."""

from collections.abc import Iterable

from engine.client.output_stream import merge_outputs
from engine.engine import Engine
from engine.protocol import RequestOutput, ScoringRequest, StepStats, SubmittedRequest


class LocalClient:
    """Runs requests to their end. `steps`: the statistics of every step."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.steps: list[StepStats] = []

    def generate(self, requests: Iterable[SubmittedRequest]) -> dict[str, RequestOutput]:
        """Return each request's outputs merged into one, by id; all requests are added before the first step."""
        for request in requests:
            if isinstance(request, ScoringRequest):
                self._engine.score(request)
            else:
                self._engine.add(request)
        merged: dict[str, RequestOutput] = {}
        while self._engine.has_work or self._engine.is_preparing:
            if not self._engine.has_work:
                self._engine.wait_for_prepared()
            step = self._engine.step()
            self.steps.append(step.stats)
            for output in step.outputs:
                known = merged.get(output.id)
                merged[output.id] = output if known is None else merge_outputs([known, output])
        return merged
