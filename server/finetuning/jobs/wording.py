"""for_clients: what a trainer says to whoever types commands, for whoever sends requests."""

import re

from engine.command_io.finetuning.job import Hyperparameters

_FLAG = re.compile(r"--([a-z][a-z-]*)")
_FOLDERS = re.compile(r"(?<![\w/:.~-])~?/(?:[^\s/'\",;:]+/)+(?=[^\s/])")  # in front of a name


def for_clients(message: str) -> str:
    """Options of the command line that are hyperparameters are fields of a request here, and of paths only the last
    name is told: which folders a server has is not for clients."""
    return _FOLDERS.sub("", _FLAG.sub(_field, message))


def _field(flag: re.Match[str]) -> str:
    name = flag[1].replace("-", "_")
    return name if name in Hyperparameters.__struct_fields__ else flag[0]
