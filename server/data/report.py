"""DataReport: counts and examples of a preparation. The same input, options and seed give the same report."""

from collections.abc import Sequence

import msgspec


class RemovedLine(msgspec.Struct, kw_only=True):
    """An example of a removed line. line: its number, after the file's name and a colon if several are prepared."""

    line: str
    text: str
    detail: str = ""


class RemovedByRule(msgspec.Struct, kw_only=True):
    """Lines that a rule removed. num_judged: lines that reached the rule and that it could judge. lines: the first
    hundred."""

    num: int = 0
    num_judged: int | None = None
    lines: list[str] = []
    examples: list[RemovedLine] = []


class Cluster(msgspec.Struct, kw_only=True):
    """Near duplicates. line: the one that was kept. duplicates: at most twenty of the others."""

    line: str
    num_duplicates: int
    duplicates: list[str] = []


class ContaminatedLine(msgspec.Struct, kw_only=True):
    line: str
    file: str  # of the evaluation
    file_line: int
    ngram: str


class NumberSpread(msgspec.Struct, kw_only=True):
    """Distribution of a number over lines."""

    total: int = 0
    least: int = 0
    median: int = 0
    p95: int = 0
    most: int = 0


class ScoreSpread(msgspec.Struct, kw_only=True):
    """Distribution of a score over lines. num: lines that have it."""

    num: int
    least: float
    median: float
    p95: float
    most: float


class TrainingTime(msgspec.Struct, kw_only=True):
    """Expected CPU time of training on the kept lines, in seconds, and its basis. num_tokens: those that all steps
    compute, replayed answers of the base model included."""

    least_s: float
    most_s: float
    num_examples: int
    num_tokens: int
    replayed_tokens: int
    n_epochs: int
    num_steps: int
    basis: str


class DataReport(msgspec.Struct, kw_only=True):
    """Report of a preparation. removed: by rule, in the order of the steps. masked: personal data by kind. languages:
    detected languages of all lines; None without detection. left_out: lines that the mixture's weights left out.
    evaluation_files: names of the files that lines were compared with; None in the report of an earlier version.
    scores: of the lines that a model scored, by the score's name. training: None if no model on disk was named, or the
    lines cannot be planned."""

    files: list[str] = []
    evaluation_files: list[str] | None = None
    options: dict[str, object] = {}
    seed: int = 0
    num_lines: int = 0
    num_kept: int = 0
    num_validation: int = 0
    left_out: int = 0
    removed: dict[str, RemovedByRule] = {}
    num_clusters: int = 0
    clusters: list[Cluster] = []  # the largest twenty
    num_semantic_clusters: int = 0
    semantic_clusters: list[Cluster] = []  # the largest twenty
    contaminated: list[ContaminatedLine] = []  # the first hundred
    dropped_fields: dict[str, int] = {}  # the most frequent hundred
    masked: dict[str, int] = {}
    languages: dict[str, int] | None = None
    words_before: NumberSpread = msgspec.field(default_factory=NumberSpread)
    words_after: NumberSpread = msgspec.field(default_factory=NumberSpread)
    scores: dict[str, ScoreSpread] = {}
    tokens: NumberSpread | None = None
    num_trained_tokens: int | None = None
    training: TrainingTime | None = None

    @property
    def num_removed(self) -> int:
        return sum(each.num for each in self.removed.values())


def spread_of(values: Sequence[int]) -> NumberSpread:
    if not values:
        return NumberSpread()
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95)]
    return NumberSpread(total=sum(ordered), least=ordered[0], median=at[0], p95=at[1], most=ordered[-1])
