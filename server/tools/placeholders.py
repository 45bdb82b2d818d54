"""has_placeholder: whether arguments have a placeholder for a value that the model did not know."""

import json
import re
from typing import Any

# Placeholders as documentation writes them: your_username, YOUR-API-KEY, <your city>. "Your Name" is a film.
_PLACEHOLDER = re.compile(r"your[_-]\w+(?:[_-]\w+)*|<your[ _-][\w -]+>", re.IGNORECASE)


def has_placeholder(text: str) -> bool:
    """Whether a string in the JSON text is a placeholder, such as {"api_key": "your_api_key"}. The text must not be
    nested deeper than Python can parse."""
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
