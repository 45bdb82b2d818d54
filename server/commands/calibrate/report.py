"""The report of `headrace calibrate`: a table of measures before and after, and the rows that were left out."""

from collections.abc import Collection, Iterator, Mapping

from engine.wording import counted
from server.calibration.calibration import Fitted, ModelCalibration, Platt, Temperature
from server.calibration.fitting import MAX_TEMPERATURE
from server.commands.calibrate.answering import RowResults

_MAX_REPORTED = 5  # failures
_NEAR_LIMIT = 0.99
_COLUMNS = ("", "answers", "accuracy", "Brier score", "log loss", "calibration error", "fit")


def report_text(
    calibration: ModelCalibration, too_few: Mapping[str, str], results: RowResults, *, not_stored: Collection[str] = ()
) -> str:
    """Return the report. too_few: the reasons why kinds of questions are not calibrated, by kind. not_stored: the kinds
    whose doubtful fits are only reported."""
    lines = [*_table(calibration)]
    for kind, doubt in doubts_of(calibration).items():
        lines.append(f"{kind}: {doubt}" + ("; not stored (--store-doubtful)" if kind in not_stored else ""))
    lines += [f"{kind}: not calibrated: {why}" for kind, why in too_few.items()]
    if results.num_refused:
        lines.append(f"{counted(results.num_refused, 'answer')} left out: the model refuses (--decision-min-mass)")
    if results.failures:
        lines.append(f"{counted(len(results.failures), 'line')} left out, since there is no answer:")
        lines += [f"  line {number}: {error}" for number, error in sorted(results.failures)[:_MAX_REPORTED]]
        if (more := len(results.failures) - _MAX_REPORTED) > 0:
            lines.append(f"  and {more:,} more")
    return "\n".join(lines)


def _table(calibration: ModelCalibration) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for kind, each in calibration.kinds.items():
        rows.append(_row(kind, each.overall))
        rows += [_row(f"  {name}", fitted) for name, fitted in each.by_name.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def doubts_of(calibration: ModelCalibration) -> dict[str, str]:
    """Return the doubt about each kind whose probabilities tell nothing of the answers, or the opposite."""
    doubts = {}
    for kind, each in calibration.kinds.items():
        fit = each.overall.fit
        if isinstance(fit, Platt) and fit.slope <= 0:
            doubts[kind] = "the slope is not above 0: the likelier the model finds it true, the seldomer it is"
        elif isinstance(fit, Temperature) and fit.temperature > _NEAR_LIMIT * MAX_TEMPERATURE:
            doubts[kind] = "the temperature is at its limit: the model's likeliest answer is no better than chance"
    return doubts


def _row(name: str, fitted: Fitted) -> tuple[str, ...]:
    pairs = [
        (getattr(fitted.before, measure), getattr(fitted.after, measure)) for measure in fitted.after.__struct_fields__
    ]
    fit = fitted.fit
    shown = f"{fit.slope:.2f}, {fit.intercept:+.2f}" if isinstance(fit, Platt) else f"T {fit.temperature:.2f}"
    return (name, f"{fitted.num_answers:,}", *(f"{before:.3f} > {after:.3f}" for before, after in pairs), shown)
