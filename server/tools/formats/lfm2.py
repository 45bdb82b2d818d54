"""LFM2: a list of Python calls between marks. The template drops the calls of earlier answers."""

from server.tools.styles.pythonic_format import PythonicFormat

FORMAT = PythonicFormat("lfm2", begin="<|tool_call_start|>[", end="]<|tool_call_end|>", renders_calls=False)
