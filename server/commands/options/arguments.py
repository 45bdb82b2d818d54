"""The command line: argparse parsers made from the options of the config dataclasses."""

import argparse
import enum
import importlib
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from engine.command_io.program import as_typed
from engine.errors import OptionError
from server.commands.options.definitions import CONFIG_VARIABLE, OPTIONS, Option, suggest
from server.commands.table import COMMANDS, GROUPS

_START = """\
Start here:
  headrace serve                   serve the demo model, with a chat page at http://127.0.0.1:8000
  headrace chat                    chat with it in the terminal
  headrace serve /path/to/model    a folder in Hugging Face layout, or a .gguf file
  headrace serve OWNER/REPO        a model of the Hugging Face hub, downloaded first
"""
_END = """\
headrace COMMAND --help shows the options of a command.
"""
_SERVE_EXAMPLES = """\
examples:
  headrace serve
  headrace serve /path/to/model --port 9000
  headrace serve OWNER/REPO --quantization int4 --max-model-len 8192
  headrace serve OWNER/REPO:Q4_K_M --host 0.0.0.0 --api-keys-file keys.yaml
  headrace serve /path/to/model OWNER/REPO --idle-unload 10m
"""
_SERVE_EPILOG = """\
Every option can also be set by an environment variable or in a file: --max-model-len 4096 is
HEADRACE_MAX_MODEL_LEN=4096, or the line 'max-model-len: 4096' in the YAML file given by --config. A flag overrides a
variable, and a variable overrides the file. Repeat an option that takes several values; in a variable separate them by
commas, in the file write a list. Put keys into HEADRACE_API_KEY rather than on the command line, which other users of
the machine can read.

"""
# argparse's message for --flag=value if the flag is a switch.
_SWITCH_WITH_VALUE = re.compile(r"argument (--[^/]+)/(--no-\S+): ignored explicit argument (.*)")
# argparse's message for an unknown command or value; newer versions of Python write the choices without quotes.
_NO_CHOICE = re.compile(r"argument ([^:]+): invalid choice: '(.*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """A parser that raises OptionError where argparse would print its usage and exit. Examples in its help can be
    pasted."""

    def format_help(self) -> str:
        before, mark, examples = super().format_help().partition("examples:\n")
        return before + mark + as_typed(examples)

    def error(self, message: str) -> NoReturn:
        if switch := _SWITCH_WITH_VALUE.fullmatch(message):
            on, off, value = switch.groups()
            raise OptionError(f"{on} and {off} do not take a value, but {value} is given; use one of them by itself")
        if no_choice := _NO_CHOICE.fullmatch(message):
            raise OptionError(_explain_choice(*no_choice.groups()))
        raise OptionError(message)


def _explain_choice(name: str, given: str, listed: str) -> str:
    choices = listed.replace("'", "").split(", ")
    hint = suggest(given, choices) or f"; choose one of {', '.join(choices)}"
    what = f"there is no {name.lower()}" if name.isupper() else f"{name} cannot be"
    return f"{what} {given!r}{hint}"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return `command`, `config` (a path or absent), `models` (arguments without a flag), and `flags`: the given
    options by field name, as typed.

    Raises OptionError; exits for --help and --version, and prints the help and exits if there is no command.
    """
    parser = root_parser("serve" if "serve" in argv else None)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        raise OptionError(_explain_unknown(unknown[0]))
    if namespace.command is None:
        parser.print_help(sys.stderr)
        parser.exit(2)
    flags, models = serve_options(namespace)
    return argparse.Namespace(command=namespace.command, config=namespace.config, flags=flags, models=models)


def serve_options(namespace: argparse.Namespace) -> tuple[dict[str, object], list[str]]:
    """Return the given options of `headrace serve` by field name, as typed, and the models without a flag.

    Raises OptionError if there are both --model and models without a flag.
    """
    flags = {name: value for name, value in vars(namespace).items() if name in OPTIONS}
    models: list[str] = namespace.positional_models
    if models and "model" in flags:
        raise OptionError(f"the model is given twice: {models[0]} and --model {flags['model']}")
    return flags, models


def parse_values(options: Iterable[Option], namespace: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the given options, by field name. Raises OptionError."""
    given = vars(namespace)
    return {each.name: each.parse(given[each.name], each.flag) for each in options if each.name in given}


def _explain_unknown(argument: str) -> str:
    flag = argument.partition("=")[0]
    if not flag.startswith("-"):
        return (
            f"unexpected argument {argument}; write models one after another, and repeat an option before each of "
            "its values"
        )
    return _explain_unknown_flag(flag, OPTIONS.values())


def refuse_unknown_options(arguments: Sequence[str], options: Collection[Option]) -> None:
    """Raise OptionError for the first of the arguments that a parser did not know, if there is one."""
    if arguments:
        flag = arguments[0].partition("=")[0]
        is_flag = flag.startswith("-")
        raise OptionError(_explain_unknown_flag(flag, options) if is_flag else f"unexpected argument {flag}")


def _explain_unknown_flag(flag: str, options: Collection[Option]) -> str:
    """Return the error for a flag that is not among the options, nor --config or --help."""
    flags = [option.flag for option in options] + ["--config", "--help"]
    flags += [option.flag.replace("--", "--no-", 1) for option in options if option.kind is bool]
    return f"unknown option {flag}{suggest(flag, flags)}"


class _RootParser(Parser):
    """The parser of `headrace`, whose help is an overview of all commands by purpose."""

    def format_help(self) -> str:
        width = max(map(len, COMMANDS))
        groups = "".join(
            f"{heading}:\n" + "".join(f"  {each.name:{width}}  {each.help}\n" for each in commands) + "\n"
            for heading, commands in GROUPS.items()
        )

        description = (
            f"headrace {version('headrace')}: run large language models on this machine, behind the OpenAI API."
        )
        return f"{description}\n\nusage: headrace COMMAND [options]\n\n{as_typed(_START)}\n{groups}{as_typed(_END)}"


def root_parser(full: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line. full: a command to include with its own parser; others have only
    their names."""
    parser = _RootParser(prog="headrace", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"headrace {version('headrace')}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help, add_help=False)
    if full is not None:
        commands.choices[full] = import_function(COMMANDS[full].parser)()
    return parser


def import_function(path: str) -> Callable[..., Any]:
    """Return the function at "module:function"."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def serve_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace serve",
        usage="headrace serve [MODEL ...] [options]",
        description="Serve MODEL, or several, over the OpenAI API until interrupted.",
        epilog=_SERVE_EPILOG + _SERVE_EXAMPLES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("positional_models", nargs="*", metavar="MODEL", help=OPTIONS["model"].help)
    parser.add_argument("--config", metavar="FILE", help=f"YAML file of options (variable: {CONFIG_VARIABLE}).")
    add_options(parser, OPTIONS.values(), many="append")
    return parser


def add_options(parser: argparse.ArgumentParser, options: Iterable[Option], *, many: str) -> None:
    """Add a flag for each option. An option that is not given leaves nothing in the namespace.

    many: how options with several values take them: "append" is one value per flag, and "extend" is all values that
    follow a flag, which would swallow positional arguments.
    """
    groups: dict[str, Any] = {}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        arguments: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS, "help": _help_of(option)}
        if option.kind is bool:
            arguments["action"] = argparse.BooleanOptionalAction
        else:
            arguments["metavar"] = option.metavar
            arguments["action"] = many if option.is_many else "store"
            if option.is_many and many == "extend":
                arguments["nargs"] = "+"
        groups[option.group].add_argument(option.flag, **arguments)


def _help_of(option: Option) -> str:
    text = option.help
    if "(default" not in text:
        text = f"{text.removesuffix('.')} (default: {show_default(option)})."
    return text.replace("%", "%%")


def show_default(option: Option) -> str:
    """Return the default as a user would type it; empty if there is none."""
    value = option.default
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, enum.Enum):
        return str(value.value)
    if option.is_size and value is not None:
        return _show_size(value)
    if isinstance(value, float):
        return _show_duration(int(value)) if option.is_duration else f"{value:.12g}"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)


def _show_size(num_bytes: int) -> str:
    unit, factor = next((each for each in (("GiB", 2**30), ("MiB", 2**20)) if num_bytes % each[1] == 0), ("", 1))
    return f"{num_bytes // factor}{unit}"


def _show_duration(seconds: int) -> str:
    units = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
    unit, factor = next(each for each in units if seconds % each[1] == 0)
    return f"{seconds // factor}{unit}"
