"""for_clients: what a trainer says to whoever types commands, for whoever sends requests."""

import re

_FLAG = re.compile(r"--([a-z][a-z-]*)")


def for_clients(message: str) -> str:
    """Options of the command line are fields of a request here."""
    return _FLAG.sub(lambda flag: flag[1].replace("-", "_"), message)
