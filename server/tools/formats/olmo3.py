"""OLMo 3: Python calls, each on a line, in <function_calls>."""

from server.tools.styles.pythonic_format import PythonicFormat

FORMAT = PythonicFormat("olmo3", begin="<function_calls>", end="</function_calls>", separator="\n")
