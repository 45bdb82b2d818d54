"""Generic format, for chat templates that show no tools: a system message lists them and says how to call them.

    <tool_call>
    {"name": ..., "arguments": {...}}
    </tool_call>

server/tools/generic_history.py writes that message, and earlier calls and results as plain text.
"""

import dataclasses

from server.tools.formats import hermes

FORMAT = dataclasses.replace(hermes.FORMAT, name="generic", renders_calls=False)
