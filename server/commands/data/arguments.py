"""The parser of `headrace data`."""

import argparse

from engine.command_io.finetuning.data_preparation import Dedup, PreparationOptions
from server.commands.options.arguments import Parser, action_examples
from server.commands.options.definitions import CLIENT_KEY_VARIABLE
from server.data.options import SEMANTIC_THRESHOLD

_EPILOG = """\
examples:
  headrace data prepare chats.jsonl --out train.jsonl
  headrace data prepare chats.jsonl --out train.jsonl --against eval.jsonl --report report.json --languages en de
  headrace data prepare a.jsonl b.csv --weights 2 1 --out train.jsonl --validation valid.jsonl --mask-pii
  headrace data prepare pages.txt --quality gopher c4 fineweb --dedup exact --out pages.jsonl
  headrace data prepare chats.jsonl --out train.jsonl --model /path/to/model --max-perplexity p95 --order difficulty
  headrace data prepare chats.jsonl --out train.jsonl --server http://127.0.0.1:8000 --max-ifd 1
  headrace data report report.json
  headrace data report report.json --out report.html
  headrace data rules | grep chat
"""


def data_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace data",
        description="Prepare training files: remove duplicates, lines of evaluation files and lines of low quality, "
        "mask personal data, split and mix. Every removed line is counted in a report.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(dest="action", title="actions", metavar="ACTION")

    def add(name: str, help: str) -> Parser:
        return actions.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=action_examples(_EPILOG, f"data {name}"),
        )

    _add_prepare(add("prepare", "write the lines of files that pass all steps, and a report"))
    report = add("report", "show the report of a preparation, as text or as a page")
    report.add_argument("report", metavar="REPORT.json", help="File that --report of a preparation wrote.")
    report.add_argument("--out", metavar="FILE", help="Write an HTML page to this file (default: text on stdout).")
    add("rules", "list the rules of quality, with their bounds and sources")
    return parser


def _add_prepare(parser: Parser) -> None:
    add = parser.add_argument
    add("files", metavar="IN", nargs="+", help="Files of lines: .jsonl, .json, .csv or .txt.")
    add("--out", metavar="FILE", required=True, help="File for the lines that are kept: .jsonl, or .txt of plain text.")
    add("--report", metavar="FILE", help="JSON file for the report (default: none).")
    add("--seed", type=int, default=0, metavar="N", help="Seed of the split and the mixture (default: 0).")
    _add_steps(parser.add_argument_group("Steps"), PreparationOptions())
    _add_scores(parser.add_argument_group("Scores by a model, which is loaded for them or served by --server"))
    _add_semantic(parser.add_argument_group("Duplicates by an embedding model"))
    _add_model(parser.add_argument_group("Model"))
    _add_outputs(parser.add_argument_group("Split and mixture"))


def _add_steps(group: argparse._ArgumentGroup, defaults: PreparationOptions) -> None:
    add = group.add_argument
    add(
        "--dedup",
        choices=list(Dedup),
        default=defaults.dedup,
        metavar="KIND",
        help="Duplicates to remove: near (and exact), exact or none (default: near).",
    )
    add(
        "--dedup-threshold",
        type=float,
        default=defaults.dedup_threshold,
        metavar="SHARE",
        help="Least share of equal words, in order, of near duplicates (default: 0.8).",
    )
    add(
        "--against",
        dest="decontaminate_against",
        nargs="+",
        default=[],
        metavar="FILE",
        help="Evaluation files; lines that contain text of them are removed.",
    )
    add(
        "--ngram",
        type=int,
        default=defaults.ngram,
        metavar="N",
        help="Words in a row that make a leak of a line (default: 13).",
    )
    add(
        "--quality",
        nargs="*",
        default=defaults.quality,
        metavar="RULE",
        help="Rules, or groups of them: chat, gopher, c4, fineweb; see headrace data rules (default: chat).",
    )
    add("--languages", nargs="+", default=[], metavar="CODE", help="Languages to keep, such as en de (default: all).")
    add(
        "--mask-pii",
        action="store_true",
        help="Mask mail addresses, phone, card and account numbers, and API keys (default: off).",
    )
    add("--drop-fields", action="store_true", help="Drop fields that jobs refuse (default: refuse the line).")
    add(
        "--max-removed",
        type=float,
        default=defaults.max_removed,
        metavar="SHARE",
        help="Fail if a larger share of the lines is removed (default: 0.5).",
    )


def _add_scores(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    for name, what in (
        ("max-perplexity", "Largest perplexity of what is learned from a line"),
        ("min-ifd", "Least instruction-following difficulty: the answer's loss with its prompt by that without"),
        ("max-ifd", "Largest instruction-following difficulty; answers above 1 do not follow from their prompts"),
    ):
        add(f"--{name}", metavar="N|pN", help=f"{what}: a number, or a percentile such as p95 (default: any).")
    add(
        "--order",
        choices=("file", "difficulty"),
        default="file",
        metavar="ORDER",
        help="Order of the lines in --out: file, or difficulty, the smallest perplexity first (default: file).",
    )
    add("--judge", metavar="FILE", help="JSON file of a grader; lines whose answers it scores too low are removed.")
    add("--min-score", type=float, metavar="N", help="Least score by --judge.")


def _add_semantic(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--semantic-model",
        metavar="MODEL",
        help="Remove lines that say the same in other words, by this embedding model, which is loaded for it; with "
        "--server, a name of a served one.",
    )
    add(
        "--semantic-threshold",
        type=float,
        metavar="COSINE",
        help=f"Least cosine of such lines, of questions and of answers (default: {SEMANTIC_THRESHOLD:g}).",
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--model",
        metavar="MODEL",
        help="Score lines with this model, and count tokens as its tokenizer and chat template make them; with "
        "--server, a name of a served one (default: the server's only one).",
    )
    add("--server", metavar="URL", help="URL of a running server, which scores and judges lines as batches.")
    add("--key-file", metavar="FILE", help=f"File with the server's API key (default: {CLIENT_KEY_VARIABLE}).")
    add(
        "--ca-file", metavar="FILE", help="CA certificates to trust for https (default: SSL_CERT_FILE, or public ones)."
    )


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--validation", metavar="FILE", help="File for validation lines, of which no near duplicate is in --out.")
    add("--validation-share", type=float, metavar="SHARE", help="Share of the lines in it (default: 0.1).")
    add(
        "--weights",
        type=float,
        nargs="+",
        metavar="N",
        help="Shares of the files in the output, in their order; lines beyond them are left out (default: all lines).",
    )
