"""The `headrace` command."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Set by the script of `headrace completion` when the shell asks for completions.
COMPLETION_VARIABLE = "_ARGCOMPLETE"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Return the exit code: 0, 1 if the server could not run, 2 for a wrong option."""
    if message := _find_shadow():
        return _fail(message, 1)
    # Not at the top: if another package named `engine` shadows ours, this import would fail with an unclear error.
    from engine.command_io.program import as_typed
    from engine.errors import OptionError, StartupError
    from server.commands.options.arguments import import_function, root_parser
    from server.commands.process_setup import ensure_home, open_standard_streams
    from server.commands.table import COMMANDS

    open_standard_streams()
    ensure_home()
    if COMPLETION_VARIABLE in os.environ:
        import_function("completion:answer_shell")()
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv and argv[0] in COMMANDS else None
    try:
        if command is not None:
            return int(import_function(COMMANDS[command].run)(argv[1:]))
        parser = root_parser()
        parser.parse_args(argv)
        parser.print_help(sys.stderr)
        return 2
    except OptionError as error:
        return _fail(as_typed(f"{error} (see {f'headrace {command}' if command else 'headrace'} --help)"), 2)
    except StartupError as error:
        hint = f" (more: {import_function('serve.arguments:doctor_command')(argv[1:])})" if command == "serve" else ""
        return _fail(as_typed(f"{error}{hint}"), 1)
    except KeyboardInterrupt:
        sys.stderr.write("headrace: stopped\n")
        return 130
    except BrokenPipeError:  # the reader of the pipe has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it when it exits
        return 1


def _find_shadow() -> str | None:
    """Return an error if `engine` or `models` would be imported from another folder than this file's packages."""
    home = Path(__file__).resolve().parent.parent
    for name in ("engine", "models"):
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin != home / name / "__init__.py":
            return (
                f"{origin or f'no package {name}'} shadows {home / name}; start headrace in another folder, and check "
                "PYTHONPATH"
            )
    return None


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"headrace: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
