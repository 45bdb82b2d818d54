"""`headrace completion SHELL`, and what a shell is answered that asks for completions, through argcomplete.

The script that a shell gets asks this program at each Tab. So it needs no renewal after an upgrade, and completions are
what the grammar of this very version takes.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from server.commands.arguments import HelpFormatter, Parser, root_parser
from server.commands.table import COMMANDS

_SHELLS = ("bash", "zsh", "fish")
_EPILOG = """\
examples:
  bash: add to ~/.bashrc        eval "$(headrace completion bash)"
  zsh:  add to ~/.zshrc         eval "$(headrace completion zsh)"       (after compinit)
  fish: run once                headrace completion fish > ~/.config/fish/completions/headrace.fish
"""
_FILES = {"FILE", "PATH", "FOLDER", "DIR", "OUT", "CONFIG"}
_MODELS = {"MODEL", "MODEL|URL"}


def run(argv: Sequence[str]) -> int:
    """Print the script for a shell. Raises OptionError; exits for --help."""
    import argcomplete

    shell = completion_parser().parse_args(argv).shell
    sys.stdout.write(argcomplete.shellcode(["headrace"], shell=shell))
    return 0


def completion_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace completion",
        description="Print a script by which SHELL completes commands, options, their values and files at a Tab.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=f"One of {', '.join(_SHELLS)}.")
    return parser


def answer(output: TextIO | None = None, leave: Callable[[int], object] = os._exit) -> None:
    """Answer the shell that asks, as its script has it in the environment, and end the process with `leave`."""
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()
    command = words[1] if len(words) > 1 and words[1] in COMMANDS else None
    parser = root_parser(command)
    for action in _actions(parser):
        _complete_by_metavar(action)
    nothing: Any = _Listed([])
    argcomplete.autocomplete(
        parser,
        always_complete_options=False,
        default_completer=nothing,
        output_stream=output,
        exit_method=leave,
    )


def _complete_by_metavar(action: argparse.Action) -> None:
    """Say how an option's value is completed; choices of argparse's own need nothing."""
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    completer: Any = None
    if metavar.startswith("{"):
        completer = _Listed(metavar.strip("{}").split(","))
    elif metavar in _FILES:
        completer = _Files()
    elif metavar in _MODELS:
        completer = _Files(suffix=".gguf")
    if completer is not None:
        action.completer = completer  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class _Listed:
    """Completes to given words. Shells that show a help beside each would else repeat the option's."""

    words: Sequence[str]

    def __call__(self, **_: object) -> dict[str, str]:
        return dict.fromkeys(self.words, "")


@dataclass(frozen=True, slots=True)
class _Files:
    """Completes to folders, and to files with the suffix."""

    suffix: str = ""

    def __call__(self, prefix: str, **_: object) -> dict[str, str]:
        folder, slash, _name = prefix.rpartition("/")
        try:
            entries = sorted(os.scandir(os.path.expanduser(folder + slash) or "."), key=lambda entry: entry.name)
        except OSError:
            return {}
        names = (entry.name + "/" * entry.is_dir() for entry in entries)
        return {folder + slash + name: "" for name in names if name.endswith(("/", self.suffix))}


def _actions(parser: argparse.ArgumentParser) -> Iterable[argparse.Action]:
    """Those of the parser and of all below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
