"""The parser of `headrace serve`, separate from the command, which is slow to import."""

import contextlib
import os
import shlex
from collections.abc import Sequence

from engine.client.fork_server import ForkServer
from server.commands.options.arguments import Parser, add_options, import_function, serve_options
from server.commands.options.definitions import CONFIG_VARIABLE, OPTIONS
from server.commands.options.sources import options_file, resolve_options

_EPILOG = """\
Every option can also be set by an environment variable or in a file: --max-model-len 4096 is
HEADRACE_MAX_MODEL_LEN=4096, or the line 'max-model-len: 4096' in the YAML file given by --config. A flag overrides a
variable, and a variable overrides the file. Repeat an option that takes several values; in a variable separate them by
commas, in the file write a list. Put keys into HEADRACE_API_KEY rather than on the command line, which other users of
the machine can read.

examples:
  headrace serve
  headrace serve /path/to/model --port 9000
  headrace serve OWNER/REPO --quantization int4 --max-model-len 8192
  headrace serve OWNER/REPO:Q4_K_M --host 0.0.0.0 --api-keys-file keys.yaml
  headrace serve /path/to/model OWNER/REPO --idle-unload 10m
"""


def run(argv: Sequence[str]) -> int:
    """Run the server as `argv` says; return the exit code. Raises OptionError or StartupError; exits for --help."""
    namespace = serve_parser().parse_args(argv)
    flags, models = serve_options(namespace)
    server, engine = resolve_options(flags, os.environ, options_file(namespace.config), models)
    with contextlib.closing(ForkServer()) as fork_server:
        # It imports the engines' libraries while this process imports its own.
        fork_server.begin(entry.engine for entry in server.model_entries(engine))
        return int(import_function("serve.command:serve")(server, engine, fork_server))


def doctor_command(argv: Sequence[str]) -> str:
    """Return the command that checks what `argv` serves. It shows no keys, so with some it has the models alone."""
    if any(each.partition("=")[0] == "--api-key" for each in argv):
        flags, models = serve_options(serve_parser().parse_args(argv))
        argv = models or [str(flags["model"])] if models or "model" in flags else []
    return shlex.join(["headrace", "doctor", *argv])


def serve_parser() -> Parser:
    parser = Parser(
        prog="headrace serve",
        usage="headrace serve [MODEL ...] [options]",
        description="Serve MODEL, or several, over the OpenAI API until interrupted.",
        epilog=_EPILOG,
    )
    parser.add_argument("positional_models", nargs="*", metavar="MODEL", help=OPTIONS["model"].help)
    parser.add_argument("--config", metavar="FILE", help=f"YAML file of options (variable: {CONFIG_VARIABLE}).")
    add_options(parser, OPTIONS.values(), many="append")
    return parser
