"""`headrace quantize`: its parser. The work is done in another process, since this one never loads torch."""

import secrets
import sys
from collections.abc import Sequence

import msgspec

from engine.command_io.output_folder import OutputFolder
from engine.command_io.quantize_config import QuantizeConfig
from engine.errors import OptionError, StartupError
from server.commands.child_process import run_module
from server.commands.options.arguments import HelpFormatter, Parser, add_options, parse_values, refuse_unknown_options
from server.commands.options.definitions import OPTIONS, options_of

_EPILOG = """\
examples:
  headrace quantize /path/to/model --scheme int4 --out model-int4
  headrace quantize OWNER/REPO --scheme fp8 --out model-fp8
  headrace quantize model.gguf --scheme int4 --calibration texts.txt --max-quality-loss 0.05 --out model-int4
"""


def run(argv: Sequence[str]) -> int:
    """Quantize as `argv`, the arguments after `headrace quantize`, says; return the exit code.

    Raises OptionError; exits for --help.
    """
    options = options_of(QuantizeConfig)
    namespace, unknown = quantize_parser().parse_known_args(argv)
    refuse_unknown_options(unknown, options)
    if namespace.model is None:
        raise OptionError("no model given; usage: headrace quantize MODEL --out FOLDER")
    try:
        config = QuantizeConfig(**parse_values(options, namespace))
    except StartupError as error:
        raise OptionError(str(error)) from error
    assert config.out is not None, "QuantizeConfig requires --out"
    token = secrets.token_hex(4)
    output = OutputFolder.of(config.out, token)
    had_content = output.has_content
    try:
        job = msgspec.json.encode([namespace.model, config, token]).decode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{error.object!a} is not valid UTF-8; give a name that is") from error
    try:
        code = run_module("engine.commands.quantize", job)
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
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=OPTIONS["model"].help.replace("serve", "quantize"))
    add_options(parser, options_of(QuantizeConfig), many="append")
    return parser
