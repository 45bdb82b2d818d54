"""LFM2: a list of Python calls between marks, which its template leaves out of earlier answers."""

from server.tools.pythonic_format import PythonicFormat

FORMAT = PythonicFormat("lfm2", begin="<|tool_call_start|>[", end="]<|tool_call_end|>", renders_calls=False)
