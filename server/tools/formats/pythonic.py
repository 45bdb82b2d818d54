"""Llama 3.2 and 4 without JSON: the whole answer is a list of Python calls."""

from server.tools.styles.pythonic_format import PythonicFormat

FORMAT = PythonicFormat("pythonic", begin="[", end="]")
