"""`headrace data`: the command, from its options to its exit code."""

import argparse
import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.command_io.finetuning.job import JobFolder, write_atomically, write_parts_atomically
from engine.command_io.progress import foreground_progress
from engine.errors import OptionError, StartupError
from engine.wording import counted, duration
from server.commands.data.arguments import data_parser
from server.commands.data.checks import check_named_models, checked_options, counts_tokens, has_bounds, server_address
from server.data.formats import read_lines
from server.data.lines import FaultyData, LineKind, parse_line
from server.data.memory import LineMemory, TooManyLines
from server.data.preparation import FaultyLines, KeptLine, Preparation, TooManyRemoved
from server.data.report import DataReport
from server.data.report_page import html_report, text_report
from server.data.rules.quality import RULES
from server.data.splitting import draw_keys, mixed, validation_lines
from server.finetuning.scores.bounds import Scores, by_difficulty
from server.live.machine import MachineSampler

if TYPE_CHECKING:
    from server.commands.data.server_model import ServerAddress
    from server.commands.data.tokens import Tokens

_MAX_SHOWN = 10  # faults
_EVERY = 256  # lines from one report of progress to the next


def run(argv: Sequence[str]) -> int:
    """Run the action in `argv`; return the exit code. Raises OptionError or StartupError; exits for --help."""
    arguments = data_parser().parse_args(argv)
    match arguments.action:
        case "prepare":
            with tempfile.TemporaryDirectory(prefix="headrace-data-") as where:
                return _prepare(arguments, JobFolder(Path(where) / "job"))
        case "report":
            _show_report(arguments.report, arguments.out)
        case "rules":
            for rule in RULES:
                sys.stdout.write(f"{rule.name:24} {rule.meaning:46} {rule.bounds:26} {rule.source}\n")
        case _:
            raise OptionError(
                "no action given; usage: headrace data ACTION, such as headrace data prepare IN --out OUT"
            )
    return 0


def _prepare(arguments: argparse.Namespace, described: JobFolder) -> int:
    """described: path of a folder to describe a local model in."""
    options, server = checked_options(arguments), server_address(arguments)
    files: list[str] = arguments.files
    preparation = Preparation(options, _short_names(files), arguments.seed, drops_fields=arguments.drop_fields)
    try:
        _check_readable([*options.decontaminate_against, *files])
        check_named_models(arguments, options, server, described)
        with contextlib.closing(foreground_progress()) as progress:
            for path in options.decontaminate_against:
                preparation.add_evaluation(Path(path).name, _lines_of(path))
            total = sum(Path(path).expanduser().stat().st_size for path in files)
            preparation.budget = _budget(total)
            done = 0
            for file, path in enumerate(files):
                for count, (number, data) in enumerate(_lines_of(path)):
                    preparation.add(file, number, data)
                    done += len(data)
                    if count % _EVERY == 0:
                        progress("prepare lines", min(done, total - 1), total, "B")
            progress("prepare lines", total, total, "B")
        report = preparation.finish()
        _check_removed(preparation, report, arguments)
        scores = _apply_models(preparation, server, arguments)
        train, valid = _divided(preparation, report, arguments)
        if scores is not None and arguments.order == "difficulty":
            train = by_difficulty(train, scores)
        if counts_tokens(arguments, options):
            report.tokens, report.num_trained_tokens = _tokens(arguments.model, server, described, [*train, *valid])
    except FaultyLines as error:
        shown = "".join(f"\n  {fault.place}: {fault.message}" for fault in error.faults[:_MAX_SHOWN])
        more = f"\n  and {len(error.faults) - _MAX_SHOWN} more" if len(error.faults) > _MAX_SHOWN else ""
        raise StartupError(f"the lines cannot be prepared:{shown}{more}") from None
    except TooManyLines as error:
        raise StartupError(f"{', '.join(files)}: {error}, or with --dedup exact, which needs less") from None
    except OSError as error:
        raise OptionError(f"cannot read {error.filename}: {error.strerror}; give another file") from error
    _write(arguments, report, train, valid)
    if arguments.model is not None and server is None and report.tokens is not None:
        from server.commands.data.training_time import expected_training_time

        report.training = expected_training_time(described, arguments.model, train, valid, report.tokens.total)
        _write_report(arguments.report, report)
    sys.stdout.write(_summary(report))
    return 0


def _apply_models(
    preparation: Preparation, server: "ServerAddress | None", arguments: argparse.Namespace
) -> Scores | None:
    """Take the lines through the steps that need a model; return their scores, if they were scored."""
    options = preparation.options
    check = partial(_check_removed, preparation, preparation.report, arguments)
    if options.semantic_model is not None:
        from server.commands.data.scoring import apply_semantic

        apply_semantic(server, preparation, check)
    is_scored = has_bounds(arguments, options)
    if not is_scored and options.judge is None:
        return None
    from server.commands.data.scoring import apply_scores

    return apply_scores(arguments.model, server, preparation, has_bounds=is_scored, check_removed=check)


def _tokens(
    model: str | None, server: "ServerAddress | None", described: JobFolder, lines: Sequence[KeptLine]
) -> "Tokens":
    from server.commands.data import tokens

    if server is not None:
        return tokens.count_tokens_on_server(server, model, lines)
    return tokens.count_tokens(described, lines)


def _check_readable(paths: Sequence[str]) -> None:
    """Raise OSError for a file that cannot be opened."""
    for path in paths:
        with Path(path).expanduser().open("rb"):
            pass


def _budget(input_bytes: int) -> LineMemory | None:
    """Return a budget of the memory that is free now; None where the system does not tell."""
    free = MachineSampler({}).sample().memory_free
    return None if free is None else LineMemory(free, input_bytes)


def _lines_of(path: str) -> Iterator[tuple[int, bytes]]:
    is_empty = True
    try:
        for line in read_lines(path):
            is_empty = False
            yield line
    except FaultyData as error:
        raise StartupError(f"{path}: {error}") from None
    if is_empty:
        raise StartupError(f"{path} has no lines; leave it out, or give another file")


def _check_removed(preparation: Preparation, report: DataReport, arguments: argparse.Namespace) -> None:
    """Check the number of removed lines; write the report if there are too many. Raises StartupError."""
    try:
        preparation.check_removed()
    except TooManyRemoved as error:
        _write_report(arguments.report, report)
        shown = ": look at the examples in the report" if arguments.report else "; --report FILE writes examples"
        raise StartupError(f"{str(error).replace('(max_removed)', '(--max-removed)')}{shown}") from None


def _divided(
    preparation: Preparation, report: DataReport, arguments: argparse.Namespace
) -> tuple[list[KeptLine], list[KeptLine]]:
    """Mix and split the lines. Raises StartupError."""
    kept = preparation.kept
    _check_kinds(arguments.files, kept)
    lines, keys = list(range(len(kept))), draw_keys(kept, arguments.seed)
    if arguments.weights is not None:
        left = {line.file for line in kept}
        for file, path in enumerate(arguments.files):
            if file not in left:
                _write_report(arguments.report, report)
                raise StartupError(f"no line of {path} is left, and --weights demands some; leave the file out")
        lines = mixed(lines, [line.file for line in kept], arguments.weights, keys)
        report.left_out = len(kept) - len(lines)
    share = preparation.options.validation_share
    valid = validation_lines(lines, preparation.groups(), share, keys) if share else set()
    if share and not valid:
        raise StartupError(f"--validation-share {share:g} of {counted(len(lines), 'line')} is no line; raise it")
    report.num_validation = len(valid)
    return [kept[line] for line in lines if line not in valid], [kept[line] for line in lines if line in valid]


def _check_kinds(files: Sequence[str], kept: Sequence[KeptLine]) -> None:
    """Raise StartupError for lines that no job takes together. Supervised jobs take chats with completions."""
    counts = Counter((line.file, line.kind) for line in kept)
    if len({LineKind.CHAT if kind is LineKind.COMPLETION else kind for _, kind in counts}) < 2:
        return
    first = {(line.file, line.kind): line.number for line in reversed(kept)}
    shown = "".join(
        f"\n  {files[file]}: {counted(count, 'line')} of the kind {kind}, the first is line {first[file, kind]}"
        for (file, kind), count in counts.items()
    )
    raise StartupError(f"the lines are of kinds that no job takes together; prepare each kind on its own:{shown}")


def _write(
    arguments: argparse.Namespace,
    report: DataReport,
    train: Sequence[KeptLine],
    valid: Sequence[KeptLine],
) -> None:
    pairs = [(arguments.out, train), *([] if arguments.validation is None else [(arguments.validation, valid)])]
    outputs = [(Path(path).expanduser(), _output(path, lines)) for path, lines in pairs]  # both, before writing
    try:
        for path, parts in outputs:
            write_parts_atomically(path, parts)
    except OSError as error:
        raise StartupError(f"cannot write {error.filename}: {error.strerror}; name another file") from error
    _write_report(arguments.report, report)


def _output(path: str, lines: Sequence[KeptLine]) -> Iterable[bytes]:
    """Yield the lines as JSON, or as plain text with a blank line between two. Raises OptionError."""
    if Path(path).suffix == ".jsonl":
        return (line.data + b"\n" for line in lines)
    texts = []
    for kept in lines:
        if kept.kind is not LineKind.TEXT:
            raise OptionError(f"{path} is a .txt file, and line {kept.number} is a {kept.kind}; name a .jsonl file")
        texts.append(parse_line(kept.data, kept.number)[0].value["text"])
    content = "\n\n".join(texts).encode() + b"\n"
    if content.lstrip().startswith(b"{"):
        raise OptionError(
            f"{path} is a .txt file whose text would start with a curly bracket, so jobs would read it as JSON lines; "
            "name a .jsonl file"
        )
    return [content]


def _write_report(path: str | None, report: DataReport) -> None:
    if path is None:
        return
    content = msgspec.json.format(msgspec.json.encode(report), indent=1)
    try:
        write_atomically(Path(path).expanduser(), content + b"\n")
    except OSError as error:
        raise StartupError(f"cannot write {path}: {error.strerror}; name another file for --report") from error


def _show_report(path: str, out: str | None) -> None:
    if out is not None and Path(out).expanduser().resolve() == Path(path).expanduser().resolve():
        raise OptionError(f"{out} would be overwritten; name another file")
    try:
        report = msgspec.json.decode(Path(path).expanduser().read_bytes(), type=DataReport)
        if not report.files:
            raise msgspec.ValidationError("it names no files")
        if out is None:
            sys.stdout.write(text_report(report))
        else:
            write_atomically(Path(out).expanduser(), html_report(report).encode())
    except OSError as error:
        raise OptionError(f"cannot open {error.filename}: {error.strerror}; give another file") from error
    except msgspec.DecodeError as error:
        raise OptionError(
            f"{path} is not the report of a preparation ({error}); give one that --report wrote"
        ) from None


def _short_names(files: Sequence[str]) -> list[str]:
    """Return the files' names; whole paths if two have the same name."""
    names = [Path(path).name for path in files]
    return names if len(set(names)) == len(names) else list(files)


def _summary(report: DataReport) -> str:
    removed = ", ".join(f"{name} {each.num:,}" for name, each in report.removed.items()) or "none"
    lines = [f"{counted(report.num_lines, 'line')}; removed {report.num_removed:,}: {removed}"]
    if report.masked:
        lines.append("masked: " + ", ".join(f"{name} {count:,}" for name, count in report.masked.items()))
    if report.left_out:
        lines.append(f"left out by the weights: {report.left_out:,}")
    train = report.num_kept - report.left_out - report.num_validation
    lines.append(f"written: {train:,}" + (f", validation {report.num_validation:,}" if report.num_validation else ""))
    if report.tokens is not None:
        lines.append(f"tokens: {report.tokens.total:,}, of which {report.num_trained_tokens:,} are learned")
    if (time := report.training) is not None:
        lines.append(f"training: {duration(time.least_s)} to {duration(time.most_s)} of CPU time ({time.basis})")
    return "".join(f"{line}\n" for line in lines)
