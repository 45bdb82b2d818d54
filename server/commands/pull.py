"""`headrace pull`: its parser. A child process does the work, since this one must not import torch."""

import argparse
from collections.abc import Sequence

from server.commands.child_process import RESUMES, run_job
from server.commands.options.arguments import Parser
from server.commands.options.definitions import OPTIONS

_EPILOG = """\
Models of the Hugging Face hub go into its own cache (HF_HOME), others into HEADRACE_CACHE. HF_TOKEN gives access to
gated repositories, and HF_ENDPOINT names a mirror. An interrupted download is resumed by the next one, or by headrace
serve.

examples:
  headrace pull OWNER/REPO
  headrace pull OWNER/REPO --revision v1.0
  headrace pull OWNER/REPO:Q4_K_M
  headrace pull demo:coder
"""


def run(argv: Sequence[str]) -> int:
    """Download a model as `argv` says; return the exit code. Raises OptionError; exits for --help."""
    namespace = pull_parser().parse_args(argv)
    return run_job("engine.commands.pull", [namespace.model, namespace.revision], when_stopped=RESUMES)


def pull_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace pull",
        usage="headrace pull [MODEL] [--revision REVISION]",
        description="Download MODEL, as headrace serve does at its first start, and verify its hashes.",
        epilog=_EPILOG,
    )
    default = OPTIONS["model"].default
    parser.add_argument(
        "model",
        nargs="?",
        default=default,
        metavar="MODEL",
        help=f"Model, in any form that headrace serve takes (default: the demo model, {default}).",
    )
    parser.add_argument("--revision", metavar="REVISION", help=OPTIONS["revision"].help)
    return parser
