"""The three ways of writing calls, each a ToolFormat: arguments in JSON, between tags, and as Python calls."""
