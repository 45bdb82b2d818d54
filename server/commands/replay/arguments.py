"""The parser of `headrace replay`."""

import argparse

from server.commands.chat.arguments import add_trust, add_where
from server.commands.chat.server import LISTENING_GROUPS
from server.commands.options.arguments import Parser, add_options
from server.commands.options.definitions import OPTIONS

_EPILOG = """\
Options of headrace serve, but for its address, keys and storage, start a server for the replay.

exit codes: 0 if the answer is the same, 1 if it differs, 2 if it cannot be replayed.

examples:
  headrace replay request.json response.json
  headrace replay request.json response.json http://host:8000 --key-file key.txt
  headrace replay request.json response.json /path/to/model --deterministic
"""


def replay_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace replay",
        usage="headrace replay REQUEST RESPONSE [MODEL|URL] [options of headrace serve] [--json]",
        description="Compute a stored answer again, and show that it is the same, or the first token that differs and "
        "the parts of system_fingerprint that do. The request needs a seed, or temperature 0.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "request",
        metavar="REQUEST",
        help="File with the body of a request to /v1/chat/completions, /v1/completions or /v1/responses.",
    )
    parser.add_argument("response", metavar="RESPONSE", help="File with its answer: JSON, or the events of its stream.")
    add_where(parser)
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
    add_trust(parser.add_argument_group("Server"))
    options = [each for each in OPTIONS.values() if each.group not in LISTENING_GROUPS and each.name != "model"]
    add_options(parser, options, many="append")
    return parser
