"""Questions with labels, and the labels' probabilities: the contents of a ScoringRequest and of its output."""

import msgspec

Path = tuple[int, ...]


class ScoredQuestion(msgspec.Struct, frozen=True, array_like=True):
    """A question: its own tokens, which follow the request's, and the labels that may come next."""

    ids: list[int]
    labels: list[list[Path]]  # spellings of each label, one or more; none is empty, or another label's too

    @property
    def max_label_tokens(self) -> int:
        return max(len(path) for paths in self.labels for path in paths)


class LabelMasses(msgspec.Struct, frozen=True, array_like=True):
    """Probabilities of a question's labels, which add up to 1 (all 0 if mass is 0)."""

    probabilities: list[float]
    mass: float  # probability that the model answers with one of the labels at all
