"""What can go wrong with a grammar."""

import re

# What the library says where one step takes more expressions, states or items than its limits allow.
_BEYOND_LIMITS = re.compile(r"too many (?:expressions|states|items)|items; max is", re.IGNORECASE)


class GrammarError(Exception):
    """A grammar failed while it was followed; the sequence cannot go on."""


class GrammarTooComplex(GrammarError):
    """Following it takes more work, or memory, than one token may. That is the grammar's fault."""


def is_beyond_limits(reason: str) -> bool:
    """Whether the library's message says that the grammar is too complex."""
    return _BEYOND_LIMITS.search(reason) is not None
