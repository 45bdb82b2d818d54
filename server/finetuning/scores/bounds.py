"""Bounds of scores: removes the lines beyond them, and orders lines by difficulty."""

import math
from collections.abc import Mapping, Sequence

from server.data.options import SCORE_BOUNDS, read_bound
from server.data.preparation import KeptLine, Preparation
from server.data.report import ScoreSpread
from server.finetuning.scores.line_scores import LineScore

Scores = Mapping[tuple[int, int], LineScore | None]  # by file and line number


def remove_beyond(preparation: Preparation, scores: Scores) -> None:
    """Remove the kept lines whose scores are beyond the bounds, and add the scores to the report. Percentiles are
    over all scored lines. Lines without a score stay."""
    kept, report, options = preparation.kept, preparation.report, preparation.options
    removed: dict[int, tuple[str, str]] = {}
    judged: dict[str, int] = {}
    for name in SCORE_BOUNDS:
        values = {}
        for index, line in enumerate(kept):
            score = scores[line.file, line.number]
            if score is not None and (value := getattr(score, name)) is not None:
                values[index] = value
        ordered = sorted(values.values())
        if ordered:
            report.scores[name] = score_spread(ordered)
        for field, rule, is_most in SCORE_BOUNDS[name]:
            given = getattr(options, field)
            if given is None or not ordered:
                continue
            number, is_percentile = read_bound(given, field)
            bound = _percentile(ordered, number) if is_percentile else number
            shown = f"{'at most' if is_most else 'at least'} {bound:g}{f' ({given})' if is_percentile else ''}"
            left = [index for index in values if index not in removed]
            judged[rule] = len(left)
            for index in left:
                if (values[index] > bound) if is_most else (values[index] < bound):
                    removed[index] = rule, f"{name} {values[index]:g}; {shown}"
    preparation.remove_kept(removed, judged)


def by_difficulty(lines: Sequence[KeptLine], scores: Scores) -> list[KeptLine]:
    """Return the lines with the smallest perplexity first, as `--order difficulty` of a job has them; lines without a
    score last."""

    def difficulty(line: KeptLine) -> float:
        score = scores[line.file, line.number]
        return math.inf if score is None else score.perplexity

    return sorted(lines, key=difficulty)


def score_spread(ordered: Sequence[float]) -> ScoreSpread:
    """Return the distribution of sorted values, at least one."""
    return ScoreSpread(
        num=len(ordered),
        least=ordered[0],
        median=_percentile(ordered, 50),
        p95=_percentile(ordered, 95),
        most=ordered[-1],
    )


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` percent of the values do not exceed."""
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]
