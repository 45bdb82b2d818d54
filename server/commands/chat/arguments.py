"""Parsers of the commands that talk to a server: chat, complete, ps and top."""

import argparse

from server.commands.chat.connecting import CA_VARIABLE
from server.commands.chat.server import DEFAULT_URL
from server.commands.options.arguments import Parser
from server.commands.options.definitions import CLIENT_KEY_VARIABLE

_CHAT_EXAMPLES = """\
examples:
  headrace chat                            the server on this machine, or a new one for the demo model
  headrace chat /path/to/model.gguf        a server for this conversation alone
  headrace chat http://host:8000 --key-file key.txt
  printf 'What is a headrace?\\n' | headrace chat
"""
_COMPLETE_EXAMPLES = """\
examples:
  headrace complete "A headrace is" --max-tokens 40
  git diff | headrace complete - http://host:8000
"""
_PS_EXAMPLES = """\
examples:
  headrace ps
  headrace ps https://host:8443 --key-file key.txt
"""


def chat_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace chat",
        description="Chat with a model in the terminal. Type /help for its commands; Ctrl-C stops an answer, Ctrl-D "
        "leaves.",
        epilog=_CHAT_EXAMPLES,
    )
    _add_server(parser)
    parser.add_argument("--system", metavar="TEXT", help="System prompt.")
    return parser


def complete_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace complete",
        description="Continue a text, without a chat template, and print the continuation.",
        epilog=_COMPLETE_EXAMPLES,
    )
    parser.add_argument("prompt", metavar="TEXT", help="Text to continue; - reads it from standard input.")
    _add_server(parser)
    sampling = parser.add_argument_group("Sampling")
    sampling.add_argument("--max-tokens", type=int, default=256, metavar="N", help="Longest output (default: 256).")
    sampling.add_argument(
        "--temperature", type=float, metavar="T", help="Sampling temperature; 0 is greedy (default: the model's)."
    )
    return parser


def ps_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace ps",
        description="List the requests of a running server, and what it is doing.",
        epilog=_PS_EXAMPLES,
    )
    _add_url(parser)
    return parser


def top_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace top",
        description="Show what a running server is doing, updated four times a second. Press Ctrl-C to leave. If the "
        "output is not a terminal, show it once.",
        epilog=_PS_EXAMPLES.replace(" ps", " top"),
    )
    _add_url(parser)
    return parser


def _add_server(parser: argparse.ArgumentParser) -> None:
    add_where(parser)
    server = parser.add_argument_group("Server")
    add_trust(server)
    server.add_argument("--served-model", metavar="NAME", help="Model of the server to use (default: its first).")


def add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "where",
        nargs="?",
        metavar="MODEL|URL",
        help="A model to start a server for, or the address of a running server "
        f"(default: the server at {DEFAULT_URL}, else the demo model).",
    )


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url", nargs="?", default=DEFAULT_URL, metavar="URL", help=f"Address of the server (default: {DEFAULT_URL})."
    )
    add_trust(parser.add_argument_group("Server"))


def add_trust(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--key-file", metavar="FILE", help=f"File with the server's key (default: the variable {CLIENT_KEY_VARIABLE})."
    )
    group.add_argument(
        "--ca-file",
        metavar="FILE",
        help="PEM file of the authority that signed the server's certificate "
        f"(default: the variable {CA_VARIABLE}, else the public authorities).",
    )
