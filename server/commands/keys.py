"""`headrace keys`: creates API keys, and checks a keys file."""

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import OptionError
from server.commands.options.arguments import Parser, action_examples
from server.keys.key import ApiKey, BudgetPeriod, key_hash, new_key
from server.keys.key_file import check_name, is_open_to_others, parse_keys, read_keys
from server.keys.key_file_edits import append_key, entry_text, replace_hash
from server.keys.spending import utc_now

_EPILOG = """\
examples:
  headrace keys new ann --file keys.yaml
  headrace keys new web --file keys.yaml --requests-per-minute 60 --tokens-per-minute 100000 --max-concurrency 4
  headrace keys new prometheus --file keys.yaml --metrics --no-models
  headrace keys rotate ann --file keys.yaml
  headrace keys hash < key.txt
  headrace keys check keys.yaml
  headrace serve --api-keys-file keys.yaml
"""
_MIN_LENGTH = 20  # characters of a key that cannot be guessed


def run(argv: Sequence[str]) -> int:
    """Run the action in `argv`, the arguments after `headrace keys`; return the exit code. Raises OptionError."""
    arguments = keys_parser().parse_args(argv)
    match arguments.action:
        case "new":
            _new(arguments)
        case "rotate":
            check_name(arguments.name, "NAME")
            key = new_key()
            replace_hash(arguments.file, arguments.name, key_hash(key))
            _show(key, f"{arguments.name} has a new key in {arguments.file}; the old one is no longer accepted")
        case "hash":
            _hash()
        case "check":
            keys = read_keys(arguments.file)
            sys.stdout.write("".join(f"{key.name}{_settings(key)}\n" for key in keys))
            if is_open_to_others(arguments.file):
                sys.stderr.write(f"{arguments.file} can be read or written by others: chmod 600 {arguments.file}\n")
        case _:
            raise OptionError(
                "no action given; usage: headrace keys ACTION, such as headrace keys new NAME --file FILE"
            )
    return 0


def _new(arguments: argparse.Namespace) -> None:
    """Create a key. Raises OptionError for an invalid name, limit or expiry time."""
    check_name(arguments.name, "NAME")
    key = new_key()
    given = {name: value for name in ApiKey.__struct_fields__ if (value := getattr(arguments, name, None)) is not None}
    # Parsed like a file, so that limits are checked by the same rules.
    (entry,) = parse_keys(msgspec.json.encode({"keys": [{**given, "hash": key_hash(key)}]}).decode())
    if entry.expires is not None and _is_past(entry.expires):
        raise OptionError(f"--expires is {arguments.expires}, which is in the past; give a future time")
    if arguments.file is None:
        _show(key, "Add this to the list in your keys file:\n\n" + entry_text(entry))
    else:
        append_key(arguments.file, entry)
        _show(
            key, f"{entry.name} is in {arguments.file}; a running server with this file accepts the key within a second"
        )


def _hash() -> None:
    """Read a key from standard input, and print its hash. Raises OptionError if the key is too short."""
    key = sys.stdin.readline().strip()
    if len(key) < _MIN_LENGTH:
        raise OptionError(
            f"the key on standard input has {len(key)} characters; it needs at least {_MIN_LENGTH}, so that nobody can "
            "guess it"
        )
    sys.stdout.write(key_hash(key) + "\n")


def _show(key: str, what: str) -> None:
    """Print the message `what` on standard error, and only the key on standard output."""
    sys.stderr.write(what.rstrip("\n") + "\n\nThe key, which is shown only once:\n")
    sys.stderr.flush()
    sys.stdout.write(key + "\n")


def _settings(key: ApiKey) -> str:
    fields: dict[str, Any] = msgspec.to_builtins(key)
    listed = "".join(f" {name}={value}" for name, value in fields.items() if name not in ("name", "hash"))
    return listed + (" (expired)" if key.expires is not None and _is_past(key.expires) else "")


def _is_past(moment: datetime.datetime) -> bool:
    return moment <= utc_now()


def keys_parser() -> Parser:
    parser = Parser(
        prog="headrace keys",
        description="Create API keys, and check a file of keys. The file contains only their hashes.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(dest="action", title="actions", metavar="ACTION")

    def add(name: str, help: str) -> Parser:
        return actions.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=action_examples(_EPILOG, f"keys {name}"),
        )

    _add_new_options(add("new", "create a key and its entry in a file"))
    rotate = add("rotate", "replace the key of a name; the old key is no longer accepted")
    rotate.add_argument("name", metavar="NAME", help="Name of the key.")
    rotate.add_argument("--file", type=Path, metavar="FILE", required=True, help="Keys file to change.")
    add("hash", "print the hash of a key read from standard input")
    check = add("check", "read a file as the server would, and list its keys")
    check.add_argument("file", type=Path, metavar="FILE", help="Keys file.")
    return parser


def _add_new_options(new: Parser) -> None:
    new.add_argument("name", metavar="NAME", help="Name of the key in the log, in metrics and in usage.")
    new.add_argument("--file", type=Path, metavar="FILE", help="Add the entry to this file (default: print it).")
    new.add_argument("--expires", metavar="TIME", help="Time of expiry, such as 2027-01-31T00:00:00Z (default: never).")
    rights = new.add_argument_group("Rights")
    rights.add_argument("--admin", action="store_const", const=True, help="Allow the key to operate the server.")
    rights.add_argument("--metrics", action="store_const", const=True, help="Allow the key to read /metrics.")
    models = rights.add_mutually_exclusive_group()
    models.add_argument("--models", nargs="+", metavar="NAME", help="Models that the key may use (default: all).")
    models.add_argument(
        "--no-models", dest="models", action="store_const", const=[], help="Do not allow the key any model."
    )
    limits = new.add_argument_group("Limits")
    for name, what in (
        ("requests-per-minute", "requests per minute"),
        ("tokens-per-minute", "tokens of prompts and answers per minute"),
        ("max-concurrency", "requests at a time"),
        ("budget-tokens", "tokens per day or month"),
    ):
        limits.add_argument(f"--{name}", type=int, metavar="N", help=f"Maximum {what} (default: no limit).")
    limits.add_argument(
        "--budget-period",
        choices=[period.value for period in BudgetPeriod],
        help="Period of --budget-tokens (default: month).",
    )
    sharing = new.add_argument_group("Sharing")
    sharing.add_argument(
        "--weight", type=float, metavar="N", help="Share of a busy server, relative to other keys (default: 1)."
    )
    sharing.add_argument(
        "--cache-group", metavar="NAME", help="Group of keys that share cached prompt prefixes (default: none)."
    )
