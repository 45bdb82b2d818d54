"""`headrace models`: its parser. A child process does the work, since this one must not load model libraries."""

import argparse
from collections.abc import Sequence

from engine.command_io.models_config import ModelsJob
from server.commands.child_process import run_job
from server.commands.options.arguments import Parser

_EPILOG = """\
The list has the models in headrace's cache (HEADRACE_CACHE) and in the Hugging Face hub's (HF_HOME), by last use,
calibrations of their decisions (headrace calibrate), and files that are made from models and made again when needed:
packed weights, compiled kernels, converted tokenizers. Removing a model keeps its calibrations.
A model's size includes its packed weights. If the output is not a terminal, each entry is a line of name, bytes, last
use and kind, separated by tabs.

examples:
  headrace models
  headrace models --json
  headrace models remove OWNER/REPO
  headrace models remove "packed weights" --yes
"""
_REMOVE_EPILOG = """\
Nothing outside the caches is ever removed. A model that is being downloaded, or that a process has open, is kept.

examples:
  headrace models remove OWNER/REPO:model-Q4_K_M.gguf
  headrace models remove OWNER/REPO "packed weights" --dry-run
"""


def run(argv: Sequence[str]) -> int:
    """List or remove cached models as `argv` says; return the exit code. Raises OptionError; exits for --help."""
    namespace = models_parser().parse_args(argv)
    job = ModelsJob(as_json=namespace.json)
    if namespace.action == "remove":
        job = ModelsJob(
            remove=tuple(namespace.names),
            asks=not namespace.yes,
            is_rehearsal=namespace.dry_run,
            is_forced=namespace.force,
        )
    return run_job("engine.commands.models", job)


def models_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace models",
        usage="headrace models [--json]\n       headrace models remove NAME... [options]",
        description="List the models on this machine, with their sizes and last use, or remove some.",
        epilog=_EPILOG,
    )
    parser.add_argument("--json", action="store_true", help="Print the list as JSON.")
    actions = parser.add_subparsers(dest="action", title="actions", metavar="ACTION")
    remove = actions.add_parser(
        "remove",
        help="remove models, or files made from them",
        description="Remove models from the caches, with the files made from them.",
        epilog=_REMOVE_EPILOG,
    )
    remove.add_argument("names", nargs="+", metavar="NAME", help="Name as headrace models lists it.")
    remove.add_argument("--yes", action="store_true", help="Do not ask for confirmation.")
    remove.add_argument("--dry-run", action="store_true", help="Show what would be freed, and remove nothing.")
    remove.add_argument("--force", action="store_true", help="Also remove files that other processes have open.")
    return parser
