"""`headrace completion SHELL`, and the completions that a shell requests, through argcomplete.

The shell's script runs this program at each Tab. The script needs no update after an upgrade, and completions always
match the installed version's parsers.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TextIO

import msgspec

from engine.command_io.models_config import ModelsJob
from server.commands.options.arguments import Parser, root_parser
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
_TIMEOUT_S = 5.0


def run(argv: Sequence[str]) -> int:
    """Print the completion script for a shell. Raises OptionError; exits for --help."""
    import argcomplete

    shell = completion_parser().parse_args(argv).shell
    sys.stdout.write(argcomplete.shellcode(["headrace"], shell=shell))
    return 0


def completion_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace completion",
        description="Print a script that lets SHELL complete commands, options, their values and files with Tab.",
        epilog=_EPILOG,
    )
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=f"One of {', '.join(_SHELLS)}.")
    return parser


def answer_shell(output: TextIO | None = None, leave: Callable[[int], object] = os._exit) -> None:
    """Print completions for the command line in the shell's environment variables, and exit through `leave`."""
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()
    command = words[1] if len(words) > 1 and words[1] in COMMANDS else None
    parser = root_parser(command)
    for action in _actions(parser):
        _complete_by_metavar(action)
    nothing: Any = partial(_complete_listed, words=())
    argcomplete.autocomplete(
        parser,
        always_complete_options=False,
        default_completer=nothing,
        output_stream=output,
        exit_method=leave,
    )


def _complete_by_metavar(action: argparse.Action) -> None:
    """Set the completer of an option's value by its metavar. Options with argparse `choices` need no completer."""
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    completer: Any = None
    if metavar.startswith("{"):
        completer = partial(_complete_listed, words=metavar.strip("{}").split(","))
    elif metavar in _FILES:
        completer = _complete_files
    elif metavar in _MODELS:
        completer = _complete_models
    elif action.dest == "names":  # headrace models remove
        completer = _cached_names
    if completer is not None:
        action.completer = completer  # type: ignore[attr-defined]


def _complete_listed(*, words: Sequence[str], **_: object) -> dict[str, str]:
    """Complete to the given words. Empty descriptions keep shells from repeating the option's help at each word."""
    return dict.fromkeys(words, "")


def _complete_files(prefix: str, *, suffix: str = "", **_: object) -> dict[str, str]:
    """Complete to folders, and to files with the suffix."""
    folder, slash, _name = prefix.rpartition("/")
    try:
        entries = sorted(os.scandir(os.path.expanduser(folder + slash) or "."), key=lambda entry: entry.name)
    except OSError:
        return {}
    names = (entry.name + "/" * entry.is_dir() for entry in entries)
    return {folder + slash + name: "" for name in names if name.endswith(("/", suffix))}


def _complete_models(prefix: str, **_: object) -> dict[str, str]:
    """Complete to names of cached models, folders and GGUF files."""
    is_path = prefix.startswith(("/", ".", "~"))
    return _complete_files(prefix, suffix=".gguf") | ({} if is_path else _cached_names(is_model=True))


def _cached_names(*, is_model: bool = False, **_: object) -> dict[str, str]:
    """Return the names that `headrace models` lists, read by a child process; none if that fails, since an error
    message would garble the command line.

    is_model: return only models that can be served.
    """
    command = [sys.executable, "-P", "-m", "engine.commands.models", msgspec.json.encode(ModelsJob()).decode()]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = [line.split("\t") for line in done.stdout.decode(errors="replace").splitlines()]
    return {row[0]: "" for row in rows if len(row) == 4 and (not is_model or row[3] in ("hub", "wheels"))}


def _actions(parser: argparse.ArgumentParser) -> Iterable[argparse.Action]:
    """Yield the actions of the parser and of all subparsers."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
