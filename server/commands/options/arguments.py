"""The command line: argparse parsers built from the options of the config dataclasses."""

import argparse
import enum
import importlib
import re
import textwrap
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any, NoReturn

from engine.command_io.program import as_typed
from engine.errors import OptionError
from server.commands.options.definitions import OPTIONS, Option, config_of_values, options_of, suggest
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
# argparse's message for --flag=value if the flag is a switch.
_SWITCH_WITH_VALUE = re.compile(r"argument (--[^/]+)/(--no-\S+): ignored explicit argument (.*)")
# argparse's message for an unknown command or value; newer versions of Python write the choices without quotes.
_NO_CHOICE = re.compile(r"argument ([^:]+): invalid choice: '(.*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises OptionError instead of printing its usage and exiting."""

    def __init__(self, *, description: str | None = None, **options: Any) -> None:
        wrapped = description and textwrap.fill(description, 100)
        super().__init__(description=wrapped, formatter_class=_HelpFormatter, allow_abbrev=False, **options)

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse the arguments; the returned list is always empty. Raises OptionError for the first unknown argument."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if not unknown:
            return namespace, []
        flag = unknown[0].partition("=")[0]
        if flag.startswith("-"):
            known = (each for action in self._actions for each in action.option_strings)
            raise OptionError(f"unknown option {flag}{suggest(flag, known)}")
        hint = "; write models one after another, and repeat an option before each of its values"
        raise OptionError(f"unexpected argument {flag}{hint if 'positional_models' in namespace else ''}")

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


def action_examples(epilog: str, action: str) -> str:
    """Return the help epilog of a subcommand such as `keys new`: those examples of the command's epilog that use it."""
    return "examples:\n" + "".join(f"{line}\n" for line in epilog.splitlines() if f" {action} " in line)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


def serve_options(namespace: argparse.Namespace) -> tuple[dict[str, object], list[str]]:
    """Return the given options by field name, unparsed, and the positional models. Raises OptionError if there are
    both positional models and --model."""
    flags = {name: value for name, value in vars(namespace).items() if name in OPTIONS}
    models: list[str] = namespace.positional_models
    if models and "model" in flags:
        raise OptionError(f"the model is given twice: {models[0]} and --model {flags['model']}")
    return flags, models


def build_config(config_class: type, namespace: argparse.Namespace) -> Any:
    """Parse the options of `config_class` in the namespace, and return the config. Raises OptionError."""
    given = vars(namespace)
    options = [each for each in options_of(config_class) if given.get(each.name) is not None]
    return config_of_values(config_class, {each.name: each.parse(given[each.name], each.flag) for each in options})


class _RootParser(Parser):
    """The parser of `headrace`, whose help lists all commands, grouped by purpose."""

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
    """Return the parser of `headrace`, with the real parser of the command `full` and empty ones for all others."""
    parser = _RootParser(prog="headrace")
    parser.add_argument("--version", action="version", version=f"headrace {version('headrace')}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help, add_help=False)
    if full is not None:
        commands.choices[full] = import_function(COMMANDS[full].parser)()
    return parser


def import_function(path: str) -> Callable[..., Any]:
    """Import the function at "module:function"; the module is relative to server.commands."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(f"server.commands.{module}"), name)
    return function


def add_options(parser: argparse.ArgumentParser, options: Iterable[Option], *, many: str) -> None:
    """Add a flag for each option. Options that are not given do not appear in the namespace.

    many: argparse action of multi-value options: "append" takes one value per flag; "extend" takes all that follow,
    positional arguments included.
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
    """Return the default as a user would type it; "none" if it is None or empty."""
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
