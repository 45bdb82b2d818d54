"""Variables of an item, and texts in which {name} stands for one."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")

Values = Mapping[str, Any]  # variables of an item, by name


def variable_text(value: object) -> str:
    """Return a variable as text: JSON unless it is a string."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def placeholders(template: str) -> list[str]:
    """Return the variables that a text reads."""
    return _PLACEHOLDER.findall(template)


def filled(template: str, values: Values) -> str:
    """Replace each {name} of a prompt by the variable's text. Other braces stay."""
    return _PLACEHOLDER.sub(lambda found: variable_text(values[found[1]]), template).strip()
