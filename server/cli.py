"""The `headrace` command."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# name -> where its `run(server_config, engine_config) -> exit code` is; imported when chosen, so that --help is quick.
COMMANDS = {"serve": "server.commands.serve:run"}
# The same for commands that have options of their own, as `run(arguments) -> exit code`.
COMMANDS_WITH_OPTIONS = {
    "chat": "server.commands.chat.command:chat",
    "complete": "server.commands.chat.command:complete",
    "ps": "server.commands.chat.command:ps",
    "top": "server.commands.chat.command:top",
    "bench": "server.commands.bench:run",
    "keys": "server.commands.keys:run",
    "quantize": "server.commands.quantize:run",
    "doctor": "server.commands.doctor.command:run",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 1 if the server could not run, 2 for a wrong option."""
    if message := _find_shadow():
        return _fail(message, 1)
    # Not at the top: where a foreign `engine` shadows ours, this import is what would fail, without saying why.
    from engine.errors import OptionError, StartupError
    from server.commands.arguments import parse_arguments
    from server.commands.home import ensure_home
    from server.commands.option_sources import resolve
    from server.commands.options import CONFIG_VARIABLE

    ensure_home()
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv and argv[0] in (*COMMANDS, *COMMANDS_WITH_OPTIONS) else None
    try:
        if command in COMMANDS_WITH_OPTIONS:
            return int(_function(COMMANDS_WITH_OPTIONS[command])(argv[1:]))
        arguments = parse_arguments(argv)
        file = arguments.config or os.environ.get(CONFIG_VARIABLE)
        configs = resolve(arguments.flags, os.environ, Path(file) if file else None)
        return int(_function(COMMANDS[arguments.command])(*configs))
    except OptionError as error:
        return _fail(f"{error} (see {f'headrace {command}' if command else 'headrace'} --help)", 2)
    except StartupError as error:
        return _fail(f"{error}{' (more: headrace doctor)' if command == 'serve' else ''}", 1)
    except KeyboardInterrupt:
        return 130


def _function(path: str) -> Callable[..., int]:
    module, _, name = path.partition(":")
    function: Callable[..., int] = getattr(importlib.import_module(module), name)
    return function


def _find_shadow() -> str | None:
    """What to say if `engine` or `models` would be imported from another folder than this file's packages."""
    home = Path(__file__).resolve().parent.parent
    for name in ("engine", "models"):
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin != home / name / "__init__.py":
            return f"{origin or f'no package {name}'} shadows {home / name}; start elsewhere, and check PYTHONPATH"
    return None


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"headrace: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
