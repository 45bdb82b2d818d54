"""has_placeholder: whether arguments name what the model did not know, such as {"api_key": "your_api_key"}."""

import json
import re
from typing import Any

# As documentation writes them: your_username, YOUR-API-KEY, <your city>. "Your Name" is a film.
_PLACEHOLDER = re.compile(r"your[_-]\w+(?:[_-]\w+)*|<your[ _-][\w -]+>", re.IGNORECASE)


def has_placeholder(text: str) -> bool:
    """text: JSON that is no deeper than Python reads."""
    pending: list[Any] = [json.loads(text)]
    while pending:
        value = pending.pop()
        if isinstance(value, str) and _PLACEHOLDER.fullmatch(value.strip()):
            return True
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return False
