"""print_answer: the answer of a process that a command has started, or the reason why there is none."""

import sys
from collections.abc import Callable

import msgspec

from engine.command_io.program import as_typed
from engine.errors import HeadraceError, OptionError
from models.errors import ModelError, SettingError


def print_answer(make: Callable[[], object]) -> int:
    """Print what `make` returns in JSON, or its expected error on stderr; return the exit code: 2 for a wrong option, 1
    for all other errors."""
    try:
        answer = make()
    except (ModelError, HeadraceError) as error:
        sys.stderr.write(f"headrace: {as_typed(str(error))}\n")
        return 2 if isinstance(error, (SettingError, OptionError)) else 1
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0
