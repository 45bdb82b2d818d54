"""The parser of `headrace calibrate`."""

import argparse

from engine.config import EngineConfig
from server.commands.options.arguments import Parser, add_options
from server.commands.options.definitions import CONFIG_VARIABLE, OPTIONS, options_of

# Options of the server that change decisions, and those about its log.
_OF_SERVER = (
    "lora_modules",
    "chat_template",
    "tool_call_parser",
    "reasoning_parser",
    "decision_min_mass",
    "max_request_bytes",
    "engine_hang_timeout",
    "log_level",
    "log_format",
)
_EPILOG = """\
A line of ROWS is {"body": a request to /v1/decisions, "answers": [true, "billing", 2, null]}: for each question, in
order, the right answer: true or false, the value of a choice, the number of a level from 0; null if it is not known.

exit codes: 0 if all lines were used; 3 if some could not be answered; 1 if the command could not run; 2 for a wrong
option or file of rows; 130 or 143 if a signal ended it.

examples:
  headrace calibrate /path/to/model rows.jsonl
  headrace calibrate model.gguf rows.jsonl --enable-lora --lora-modules mine=/path/to/adapter
"""


def calibrate_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace calibrate",
        usage="headrace calibrate MODEL ROWS [options]",
        description="Answer decisions whose right answers are known, fit the model's probabilities to them, and show "
        "accuracy, Brier score, log loss and calibration error before and after, on rows that were held out. The "
        "result is a small file in the cache, which servers of the same model use.",
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="Folder, .gguf file or hub id, as for headrace serve.")
    parser.add_argument("rows", metavar="ROWS", help="File of rows, one JSON object on each line.")
    parser.add_argument("--config", metavar="FILE", help=f"YAML file of options (variable: {CONFIG_VARIABLE}).")
    parser.add_argument(
        "--store-doubtful",
        action="store_true",
        help="Store fits too that turn answers around or make all options alike (default: report them only).",
    )
    add_options(parser, [each for each in options_of(EngineConfig) if each.name != "model"], many="append")
    add_options(parser, [OPTIONS[name] for name in _OF_SERVER], many="append")
    return parser
