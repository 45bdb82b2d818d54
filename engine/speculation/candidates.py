"""Options: which sequences could draft what, from the source that promises the most for each."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from engine.scheduling.sequence import Sequence
from engine.speculation.acceptance import Acceptance
from engine.speculation.cost_model import Costs
from engine.speculation.fault_log import FaultBook
from engine.speculation.proposers import Drafter, Lookup, Source


@dataclass(frozen=True, slots=True)
class Option:
    """What one sequence could draft. Of a draft model only the number of tokens is known yet, and its lag; while it
    lags, what there is `instead`."""

    sequence: Sequence
    source: Source
    token_ids: list[int]
    lag: int = 0
    instead: "Option | None" = None


class Options:
    """Asks all sources for each sequence."""

    def __init__(
        self,
        max_tokens: int,
        lookups: Iterable[Lookup],
        drafter: Drafter | None,
        *,
        acceptance: Acceptance,
        costs: Costs,
        faults: FaultBook,
    ) -> None:
        self._max_tokens = max_tokens
        self._lookups = list(lookups)
        self._drafter = drafter
        self._acceptance = acceptance
        self._costs = costs
        self._faults = faults

    def begin_step(self) -> None:
        for lookup in self._lookups:
            lookup.begin_step()
        if self._drafter is not None:
            self._drafter.begin_step()

    def release(self, sequence: Sequence) -> None:
        for lookup in self._lookups:
            lookup.release(sequence)
        if self._drafter is not None:
            self._drafter.release(sequence)

    def of(self, running: list[Sequence], sources: Collection[Source]) -> list[Option]:
        """One for each sequence that decodes and for which one of the sources has something."""
        if sources == {Source.PREDICTION}:  # as where no speculation is asked for
            running = [sequence for sequence in running if sequence.request.prediction_ids]
        options = []
        for sequence in running:
            most = min(self._max_tokens, sequence.num_remaining - 1)
            can_draft = sequence.num_pending == 1 and sequence.service.is_drafted
            if can_draft and most > 0 and not self._faults.is_muted(sequence):
                with self._faults.suspecting([sequence]):
                    options += self._best(self._all(sequence, most, sources))
        return options

    def _all(self, sequence: Sequence, most: int, sources: Collection[Source]) -> list[Option]:
        options = [
            Option(sequence, lookup.source, token_ids)
            for lookup in self._lookups
            if lookup.source in sources and (token_ids := lookup.propose(sequence, most))
        ]
        drafter = self._drafter if Source.DRAFT_MODEL in sources else None
        if drafter is not None and (room := min(most, drafter.room(sequence))) > 0:
            instead = max(options, key=self._first_gain, default=None)
            options.append(Option(sequence, Source.DRAFT_MODEL, [0] * room, drafter.lag(sequence), instead))
        return options

    def _best(self, options: list[Option]) -> list[Option]:
        """The one whose first token is the likeliest to stand, less its cost; of equals the first."""
        if len(options) < 2:
            return options
        best = max(options, key=self._first_gain)
        for option in options:
            if option is not best:
                self._acceptance.observe_idle(option.sequence.id, option.source)
        return [best]

    def _first_gain(self, option: Option) -> float:
        (chance,) = self._acceptance.chances(option.sequence.id, option.source, 1)
        if option.source is not Source.DRAFT_MODEL:
            return chance
        plain_s = self._costs.step_s(1, 1)
        return chance - self._costs.pass_s(1, plain_s) / max(1e-9, plain_s)
