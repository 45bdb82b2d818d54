"""Llama 3.2 and 4: the whole answer is a list of Python calls instead of JSON."""

from server.tools.styles.pythonic_format import PythonicFormat

FORMAT = PythonicFormat("pythonic", begin="[", end="]")
