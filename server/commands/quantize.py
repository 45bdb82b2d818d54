"""`headrace quantize`: its parser. A child process does the work, since this one must not import torch."""

import secrets
import sys
from collections.abc import Sequence

from engine.command_io.output_folder import OutputFolder
from engine.command_io.quantize_config import QuantizeConfig
from engine.errors import OptionError
from server.commands.child_process import run_job
from server.commands.options.arguments import Parser, add_options, build_config
from server.commands.options.definitions import OPTIONS, options_of

_EPILOG = """\
examples:
  headrace quantize /path/to/model --scheme int4 --out model-int4
  headrace quantize OWNER/REPO --scheme fp8 --out model-fp8
  headrace quantize model.gguf --scheme int4 --calibration texts.txt --max-quality-loss 0.05 --out model-int4
"""


def run(argv: Sequence[str]) -> int:
    """Quantize a model as `argv` says; return the exit code. Raises OptionError; exits for --help."""
    namespace = quantize_parser().parse_args(argv)
    if namespace.model is None:
        raise OptionError("no model given; usage: headrace quantize MODEL --out FOLDER")
    config = build_config(QuantizeConfig, namespace)
    assert config.out is not None, "QuantizeConfig requires --out"
    token = secrets.token_hex(4)
    output = OutputFolder.of(config.out, token)
    had_content = output.has_content
    try:
        code = run_job("engine.commands.quantize", [namespace.model, config, token])
    finally:
        output.remove_partial()  # left by a process that was killed
    if code > 128 and not had_content:  # ended by a signal
        outcome = f"{config.out} is complete" if output.has_content else f"nothing was written to {config.out}"
        sys.stderr.write(f"headrace: ended by a signal; {outcome}\n")
    return code


def quantize_parser() -> Parser:
    parser = Parser(
        prog="headrace quantize",
        usage="headrace quantize MODEL --out FOLDER [options]",
        description="Write a quantized checkpoint of MODEL, in the compressed-tensors format, for headrace and vLLM.",
        epilog=_EPILOG,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=OPTIONS["model"].help.replace("serve", "quantize"))
    add_options(parser, options_of(QuantizeConfig), many="append")
    return parser
