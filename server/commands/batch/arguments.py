"""The parser of `headrace batch`."""

import argparse

from engine.config import EngineConfig
from server.commands.options.arguments import Parser, add_options
from server.commands.options.definitions import CONFIG_VARIABLE, OPTIONS, options_of

# Options of the server about requests and the log; the others are about HTTP, keys and queues.
_OF_SERVER = (
    "served_model_name",
    "chat_template",
    "tool_call_parser",
    "reasoning_parser",
    "max_num_batch_requests",
    "max_request_bytes",
    "max_logprobs",
    "strict_parameters",
    "engine_hang_timeout",
    "log_level",
    "log_format",
)
_EPILOG = """\
exit codes: 0 if all requests succeeded; 3 if some failed; 1 if the command could not run or resume; 2 for a wrong
option; 130 or 143 if a signal ended it.

examples:
  headrace batch requests.jsonl answers.jsonl --model /path/to/model
  headrace batch requests.jsonl answers.jsonl --errors failed.jsonl --model OWNER/REPO --quantization int4
  headrace batch -i requests.jsonl -o answers.jsonl --model model.gguf
"""


def batch_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace batch",
        usage="headrace batch INPUT OUTPUT --model MODEL [options]",
        description="Answer the requests of INPUT, a file in the format of /v1/batches, and write the answers to "
        "OUTPUT, without a server. If it is interrupted, the same command resumes where it stopped.",
        epilog=_EPILOG,
    )
    parser.add_argument("input", nargs="?", metavar="INPUT", help="File of requests, one JSON object on each line.")
    parser.add_argument("output", nargs="?", metavar="OUTPUT", help="File of answers; existing answers are kept.")
    parser.add_argument("-i", "--input-file", metavar="FILE", help="Same as INPUT, like vLLM's run-batch.")
    parser.add_argument("-o", "--output-file", metavar="FILE", help="Same as OUTPUT.")
    parser.add_argument(
        "--errors", metavar="FILE", help="File for the lines of requests that failed (default: OUTPUT)."
    )
    parser.add_argument("--config", metavar="FILE", help=f"YAML file of options (variable: {CONFIG_VARIABLE}).")
    add_options(parser, options_of(EngineConfig), many="append")
    add_options(parser, [OPTIONS[name] for name in _OF_SERVER], many="append")
    return parser
