"""The report of a preparation for people: as text for a terminal, and as an HTML page."""

import html
from collections.abc import Iterator, Sequence

from engine.wording import counted, duration
from server.data.report import Cluster, DataReport, NumberSpread, TrainingTime

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;text-align:left;vertical-align:top;"
    "border-bottom:1px solid #8886;overflow-wrap:anywhere}"
)
Table = tuple[str, Sequence[str], list[Sequence[str]]]  # title, columns, rows


def text_report(report: DataReport) -> str:
    """Return the report as aligned text."""
    parts = [f"{_headline(report)}\n"]
    for title, columns, rows in _tables(report):
        widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns) - 1)]
        parts.append(f"\n{title}\n")
        for row in (columns, *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            parts.append("  ".join(["", *cells, row[-1]]).rstrip() + "\n")
    return "".join(parts)


def html_report(report: DataReport) -> str:
    """Return the report as an HTML page that needs no other file."""
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Data report</title><style>{_STYLE}</style>'
        f"<h1>Data report</h1><p>{html.escape(_headline(report))}"
    ]
    for title, columns, rows in _tables(report):
        parts.append(f"<h2>{html.escape(title)}</h2><table><tr>")
        parts += [f"<th>{html.escape(column)}" for column in columns]
        for row in rows:
            parts.append("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row))
        parts.append("</table>")
    return "\n".join(parts) + "</html>\n"


def _headline(report: DataReport) -> str:
    train = report.num_kept - report.left_out - report.num_validation
    left_out = f", {report.left_out:,} left out by the weights" if report.left_out else ""
    return (
        f"{', '.join(report.files)}: {report.num_lines:,} lines, {report.num_removed:,} removed, {train:,} for "
        f"training, {report.num_validation:,} for validation{left_out}{_compared(report.evaluation_files)}"
    )


def _compared(evaluation_files: list[str] | None) -> str:
    if evaluation_files is None:
        return ""
    return f"; compared with {', '.join(evaluation_files) or 'no evaluation, since none was named'}"


def _tables(report: DataReport) -> Iterator[Table]:
    """Yield the tables that have rows."""
    removed = report.removed.items()
    spreads = [("words before", report.words_before), ("words after", report.words_after)]
    if report.tokens is not None:
        spreads.append((f"tokens ({report.num_trained_tokens:,} are learned)", report.tokens))
    tables: tuple[Table, ...] = (
        (
            "Removed",
            ("rule", "lines", "judged", "numbers"),
            [
                (name, f"{each.num:,}", f"{each.num_judged or report.num_lines:,}", _listed(each.lines, each.num))
                for name, each in removed
            ],
        ),
        (
            "Examples",
            ("rule", "line", "reason", "text"),
            [(name, each.line, each.detail, each.text) for name, rule in removed for each in rule.examples],
        ),
        (
            f"Near duplicates: {report.num_clusters:,} clusters, the largest ones",
            ("kept line", "duplicates", "numbers"),
            _clusters(report.clusters),
        ),
        (
            f"Semantic duplicates: {report.num_semantic_clusters:,} clusters, the largest ones",
            ("kept line", "duplicates", "numbers"),
            _clusters(report.semantic_clusters),
        ),
        (
            "Lines with text of evaluation files",
            ("line", "file", "its line", "text in both"),
            [(each.line, each.file, str(each.file_line), each.ngram) for each in report.contaminated],
        ),
        ("Lengths", ("of a line", "total", "least", "median", "95 %", "most"), [_row(*each) for each in spreads]),
        ("Expected training time", ("CPU time", "to compute", "basis"), _training(report.training)),
        (
            "Scores by the model",
            ("of a line", "lines", "least", "median", "95 %", "most"),
            [
                (name, f"{each.num:,}", *(f"{value:g}" for value in (each.least, each.median, each.p95, each.most)))
                for name, each in report.scores.items()
            ],
        ),
        ("Languages", ("code", "lines"), _counts(report.languages or {})),
        ("Masked personal data", ("kind", "number"), _counts(report.masked)),
        ("Dropped fields", ("field", "lines"), _counts(report.dropped_fields)),
        (
            "Options",
            ("name", "value"),
            [(name, str(value)) for name, value in (*report.options.items(), ("seed", report.seed))],
        ),
    )
    for title, columns, rows in tables:
        if rows:
            yield title, columns, rows


def _row(name: str, spread: NumberSpread) -> tuple[str, ...]:
    return name, *(f"{each:,}" for each in (spread.total, spread.least, spread.median, spread.p95, spread.most))


def _training(time: TrainingTime | None) -> list[Sequence[str]]:
    if time is None:
        return []
    replayed = f", {time.replayed_tokens:,} of them replayed" if time.replayed_tokens else ""
    work = f"{counted(time.num_tokens, 'token')} in {counted(time.n_epochs, 'epoch')}{replayed}"
    return [(f"{duration(time.least_s)} to {duration(time.most_s)}", work, time.basis)]


def _clusters(clusters: Sequence[Cluster]) -> list[Sequence[str]]:
    return [(each.line, f"{each.num_duplicates:,}", _listed(each.duplicates, each.num_duplicates)) for each in clusters]


def _counts(counts: dict[str, int]) -> list[Sequence[str]]:
    return [(name, f"{count:,}") for name, count in counts.items()]


def _listed(numbers: Sequence[str], total: int) -> str:
    return ", ".join(numbers[:20]) + (", ..." if total > min(20, len(numbers)) else "")
