"""PredictionProposer: drafts from the output that a client predicts (OpenAI's `prediction`), such as a file to edit."""

from weakref import WeakValueDictionary

import msgspec

from engine.protocol import RequestOutput
from engine.scheduling.plan import StepPlan
from engine.scheduling.sequence import Sequence
from engine.speculation.ngram import MAX_INDEXED_PER_STEP, NgramIndex, RepeatTracker
from engine.speculation.proposers import DraftSource

_MIN_N, _MAX_N = 2, 4  # tokens by which the output is found again in the prediction after a difference


class PredictionProposer:
    """Tracks each sequence's position in its request's prediction. All choices of a request share one n-gram index.

    A long prediction is indexed over several steps, and used only when the index is complete, so that drafts depend on
    the tokens and not on timing.
    """

    source = DraftSource.PREDICTION

    def __init__(self) -> None:
        self._indices: WeakValueDictionary[tuple[int, ...], NgramIndex] = WeakValueDictionary()
        self._states: dict[str, tuple[NgramIndex, RepeatTracker]] = {}
        self._index_budget = MAX_INDEXED_PER_STEP

    def begin_step(self) -> None:
        self._index_budget = MAX_INDEXED_PER_STEP

    def propose(self, sequence: Sequence, num_tokens: int) -> list[int]:
        if not sequence.request.prediction_ids:
            return []
        tracker = self._tracker(sequence)
        if tracker is None:
            return []
        tracker.advance(sequence.tokens)
        return tracker.next_tokens(sequence.tokens, num_tokens)

    def count_matches(self, plan: StepPlan, outputs: list[RequestOutput]) -> list[RequestOutput]:
        """Return a step's outputs with `num_predicted`: how many tokens of the prediction have been output so far."""
        predicting = {
            item.sequence.id: (item.sequence, item.num_certain)
            for item in plan.items
            if item.sequence.request.prediction_ids and item.needs_logits
        }
        if not predicting:
            return outputs
        counts = {
            output.id: self.match_counts(*predicting[output.id], len(output.new_ids))
            for output in outputs
            if output.id in predicting
        }
        return [
            msgspec.structs.replace(output, num_predicted=counts[output.id]) if output.id in counts else output
            for output in outputs
        ]

    def match_counts(self, sequence: Sequence, num_known: int, num_new: int) -> list[int]:
        """Return, for each of the `num_new` tokens after the first `num_known`, how many tokens of the prediction the
        output contains up to there, whether or not they were drafted."""
        tracker = self._tracker(sequence)
        resumption = sequence.request.resumption
        num_before = 0 if resumption is None else resumption.num_predicted
        if tracker is None:
            return [num_before] * num_new
        counts = []
        for end in range(num_known + 1, num_known + num_new + 1):
            tracker.advance(sequence.tokens, end)
            counts.append(max(num_before, len(tracker.matched)))
        return counts

    def release(self, sequence: Sequence) -> None:
        self._states.pop(sequence.id, None)

    def _tracker(self, sequence: Sequence) -> RepeatTracker | None:
        """Return the sequence's tracker; None while the index is not complete."""
        state = self._states.get(sequence.id)
        if state is None:
            index = self._index(tuple(sequence.request.prediction_ids))
            state = index, RepeatTracker(index, next_position=0, num_seen=sequence.num_prompt, prefers_latest=False)
            self._states[sequence.id] = state
        index, tracker = state
        num_new = min(len(index.tokens) - index.num_indexed, self._index_budget)
        if num_new:
            index.update(index.num_indexed + num_new)
            self._index_budget -= num_new
        return tracker if index.num_indexed == len(index.tokens) else None

    def _index(self, prediction_ids: tuple[int, ...]) -> NgramIndex:
        index = self._indices.get(prediction_ids)
        if index is None:
            index = NgramIndex(list(prediction_ids), _MIN_N, _MAX_N)
            self._indices[prediction_ids] = index
        return index
