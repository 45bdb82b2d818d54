"""suggest: what somebody may have meant who misspelled a name."""

import difflib
from collections.abc import Iterable


def suggest(given: str, known: Iterable[str]) -> str:
    """'; did you mean X?' with the known name that is nearest to the one given, or '' if none is near."""
    nearest = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]}?" if nearest else ""
